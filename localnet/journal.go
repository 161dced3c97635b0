package localnet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"
	"syscall"

	"basilica"
	"basilica/internal/crashpoint"
	"basilica/pallet"
	"basilica/scale"
)

// The file of a chain: a header, then records. A record is its length and its CRC-32 (u32 little endian each) and its
// bytes. The first record is the base: the hashes of the blocks before, and the state after the last of them. Every
// further record is a block with what it changed; one whose number was there before follows a reorganisation. A torn last record is cut off when the file is opened.
const (
	journalMagic  = "basilica localnet 2\n"
	maxRecord     = 1 << 30
	recordPrelude = 8
)

// journal is the open file; Chain's lock guards it.
type journal struct {
	file   *os.File
	path   string
	blocks uint64 // records after the base
}

// errJournal says that a file is not one of ours or belongs to another version.
func errJournal(path, sentence string, cause error) error {
	e := basilica.E(basilica.Invalid, "LOCALNET_FILE", fmt.Sprintf("%s %s", path, sentence),
		"remove the file to start a new chain, or use the version that made it")
	if cause != nil {
		return e.With(cause)
	}
	return e
}

// open continues the chain in the file at path, or prepares a new file; restored says which.
func (c *Chain) open(path string) (restored bool, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, fmt.Errorf("open the chain's file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return false, basilica.E(basilica.Conflict, "LOCALNET_FILE_IN_USE", path+" is in use by another localnet",
			"stop the other one, or choose another data directory").With(err)
	}
	c.journal = &journal{file: file, path: path}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	if fresh := append([]byte(journalMagic), frame(c.encodeBase(&hashLine{}, nil))...); size < int64(len(fresh)) {
		// A new file, or one whose maker was killed before it held anything.
		begun := make([]byte, size)
		if _, err := file.ReadAt(begun, 0); err != nil || !bytes.HasPrefix(fresh, begun) {
			return false, errJournal(path, "is not a localnet's file of this version", err)
		}
		_, err := file.WriteAt(fresh, 0)
		if err == nil {
			_, err = file.Seek(0, io.SeekEnd)
		}
		return false, err
	}
	if err := c.restore(file, size); err != nil {
		return false, err
	}
	return c.hashes.next() > 0, nil
}

// restore reads the whole file and cuts off a torn end.
func (c *Chain) restore(file *os.File, size int64) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(file, 1<<20)
	magic := make([]byte, len(journalMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != journalMagic {
		return errJournal(c.journal.path, "is not a localnet's file of this version", err)
	}
	good := int64(len(journalMagic))
	base, err := readRecord(r, size-good)
	if err != nil {
		return errJournal(c.journal.path, "has no readable beginning", err)
	}
	if err := c.decodeBase(base); err != nil {
		return err
	}
	good += int64(recordPrelude + len(base))
	for {
		record, err := readRecord(r, size-good)
		if err != nil {
			break // the end, or a record that was being written when the process died
		}
		if err := c.replay(record); err != nil {
			return errJournal(c.journal.path, "has a block that does not follow", err)
		}
		good += int64(recordPrelude + len(record))
		c.journal.blocks++
	}
	if good < size {
		c.log.Warn("the chain's file has an end that does not read, cut off", "file", c.journal.path, "bytes", size-good, "block", int(c.head()))
	}
	if err := file.Truncate(good); err != nil {
		return err
	}
	_, err = file.Seek(good, io.SeekStart)
	return err
}

func readRecord(r io.Reader, left int64) ([]byte, error) {
	var prelude [recordPrelude]byte
	if _, err := io.ReadFull(r, prelude[:]); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(prelude[:4]))
	if n > maxRecord || n > left-recordPrelude {
		return nil, io.ErrUnexpectedEOF
	}
	record := make([]byte, n)
	if _, err := io.ReadFull(r, record); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(record) != binary.LittleEndian.Uint32(prelude[4:]) {
		return nil, errors.New("checksum")
	}
	return record, nil
}

func frame(record []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(record)))
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(record))
	return append(b, record...)
}

func (j *journal) write(record []byte) error {
	defer crashpoint.Around("localnet.journal.write")()
	if _, err := j.file.Write(frame(record)); err != nil {
		return fmt.Errorf("write the chain's file: %w", err)
	}
	return nil
}

func (j *journal) append(number uint64, b block, changes map[string][]byte) error {
	record := scale.AppendU64(nil, number)
	for _, hash := range [][32]byte{b.header.Parent, b.header.StateRoot, b.header.ExtrinsicsRoot} {
		record = append(record, hash[:]...)
	}
	record = listOf(cBytes).encode(record, b.header.Digest)
	record = scale.AppendCompact(record, uint64(len(b.extrinsics)))
	for _, e := range b.extrinsics {
		record = scale.AppendBytes(record, e)
	}
	j.blocks++
	return j.write(appendChanges(record, changes))
}

func (j *journal) close() error { return errors.Join(j.file.Sync(), j.file.Close()) }

func appendChanges(b []byte, changes map[string][]byte) []byte {
	b = scale.AppendCompact(b, uint64(len(changes)))
	for _, k := range slices.Sorted(maps.Keys(changes)) {
		b = scale.AppendBytes(b, []byte(k))
		b = scale.AppendBool(b, changes[k] != nil)
		b = scale.AppendBytes(b, changes[k])
	}
	return b
}

func readChanges(r *scale.Reader) map[string][]byte {
	out := map[string][]byte{}
	for range r.Count(3) {
		k, present, v := string(r.Bytes()), r.Bool(), r.Bytes()
		if !present {
			v = nil
		}
		out[k] = v
	}
	return out
}

// encodeBase is the first record: the metadata's hash, the hashes of the last blocks, the state after the last.
func (c *Chain) encodeBase(hashes *hashLine, state map[string][]byte) []byte {
	meta := pallet.Blake2b256(c.runtimes[0].rt.v15)
	return appendChanges(hashes.encode(meta[:]), state)
}

func (c *Chain) decodeBase(record []byte) error {
	r := scale.NewReader(record)
	if meta := pallet.Blake2b256(c.runtimes[0].rt.v15); !bytes.Equal(r.Raw(32), meta[:]) {
		return errJournal(c.journal.path, "was made by a localnet with other rules or another block time", nil)
	}
	c.hashes = readHashLine(r)
	state := readChanges(r)
	if err := r.Done(); err != nil {
		return errJournal(c.journal.path, "has a beginning that does not decode", err)
	}
	if c.hashes.next() > 0 {
		c.state = newHistory(c.head())
		c.state.apply(c.head(), state)
	}
	return nil
}

// replay adopts a block from the file.
func (c *Chain) replay(record []byte) error {
	r := scale.NewReader(record)
	number := r.U64()
	b := block{header: pallet.Header{
		Number: number, Parent: readAccount(r), StateRoot: readAccount(r), ExtrinsicsRoot: readAccount(r),
		Digest: listOf(cBytes).decode(r),
	}}
	for range r.Count(1) {
		b.extrinsics = append(b.extrinsics, r.Bytes())
	}
	changes := readChanges(r)
	if err := r.Done(); err != nil {
		return err
	}
	if number > c.hashes.next() || number < c.hashes.next() && (number == 0 || number <= c.state.oldest) {
		return fmt.Errorf("block %d after %d blocks", number, c.hashes.next())
	}
	if number < c.hashes.next() { // a reorganisation dropped the blocks from here on
		c.retreat(number - 1)
	}
	if number > 0 && b.header.Parent != c.hash(number-1) {
		return fmt.Errorf("block %d names another parent", number)
	}
	c.state.apply(number, changes)
	c.index(number, b.header.Hash(), b)
	if number > keptStates {
		c.state.forget(max(c.state.oldest, number-keptStates))
	}
	return nil
}

// compact rewrites the file with a later base, so that it does not grow for ever: the state keptStates blocks ago and
// the blocks since. The new file takes the old one's name only when it is complete.
func (c *Chain) compact() error {
	old := c.journal
	base := c.state.oldest
	// One name for all times: what a killed process left half written is written over. The old file's lock guards it.
	file, err := os.OpenFile(old.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("compact the chain's file: %w", err)
	}
	fresh := &journal{file: file, path: old.path}
	err = c.writeCompacted(fresh, base)
	if err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(file.Name(), old.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("compact the chain's file: %w", err), file.Close(), os.Remove(file.Name()))
	}
	c.journal = fresh
	return old.file.Close()
}

func (c *Chain) writeCompacted(j *journal, base uint64) error {
	w := bufio.NewWriterSize(j.file, 1<<20)
	if _, err := w.WriteString(journalMagic); err != nil {
		return err
	}
	if _, err := w.Write(frame(c.encodeBase(c.hashes.until(base), c.state.snapshot(base)))); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for n := base + 1; n <= c.head(); n++ {
		changes := map[string][]byte{}
		for _, k := range c.state.touched[n] {
			changes[k], _ = c.state.get(n, k)
		}
		if err := j.append(n, c.blocks[n], changes); err != nil {
			return err
		}
	}
	return j.file.Sync()
}
