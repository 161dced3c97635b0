package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"basilica"
	"basilica/internal/crashpoint"
)

const (
	logHeader   = 5       // stream, then the data's length as a big-endian uint32
	maxLogChunk = 1 << 20 // bytes of data in one record
	markEvery   = 256 << 10
	logSuffix   = ".log"
)

// TaskLogs keeps one file per task: records of stream, length and data, in the order in which they came. Offsets count
// data bytes of both streams together. Its methods may be called at the same time.
type TaskLogs struct {
	dir string

	mu    sync.Mutex // guards sizes, and every append
	sizes map[basilica.TaskID]logSize
}

// logPoint is a place between two records.
type logPoint struct {
	data int64 // bytes of log before it
	file int64 // bytes of the file before it
}

// logSize is where a log ends, and places on the way from which a reader can begin.
type logSize struct {
	logPoint
	marks []logPoint
}

// add goes over one record with n bytes of data.
func (s *logSize) add(n int) {
	last := logPoint{}
	if len(s.marks) > 0 {
		last = s.marks[len(s.marks)-1]
	}
	if s.data-last.data >= markEvery {
		s.marks = append(s.marks, s.logPoint)
	}
	s.data += int64(n)
	s.file += logHeader + int64(n)
}

// before is the last known place that is not after offset.
func (s logSize) before(offset int64) logPoint {
	for i := len(s.marks) - 1; i >= 0; i-- {
		if s.marks[i].data <= offset {
			return s.marks[i]
		}
	}
	return logPoint{}
}

// OpenTaskLogs opens or makes the directory of logs.
func OpenTaskLogs(dir string) (*TaskLogs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	return &TaskLogs{dir: dir, sizes: map[basilica.TaskID]logSize{}}, nil
}

func (l *TaskLogs) path(id basilica.TaskID) string {
	return filepath.Join(l.dir, filepath.Base(string(id))+logSuffix)
}

// Append adds a chunk. What the log has already is skipped, so that a repeated chunk changes nothing; a chunk that would
// leave a gap is a Conflict (LOG_GAP). Bytes beyond basilica.MaxLogBytes are dropped.
func (l *TaskLogs) Append(id basilica.TaskID, c basilica.LogChunk) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, err := l.size(id)
	if err != nil {
		return err
	}
	if size.data >= basilica.MaxLogBytes {
		return nil
	}
	if c.Offset < 0 || c.Offset > size.data {
		return basilica.E(basilica.Conflict, "LOG_GAP", fmt.Sprintf("log of task %s has %d bytes and cannot go on at %d", id, size.data, c.Offset), "")
	}
	if size.data-c.Offset >= int64(len(c.Data)) {
		return nil
	}
	data := c.Data[size.data-c.Offset:]
	data = data[:min(int64(len(data)), basilica.MaxLogBytes-size.data)]
	if len(data) == 0 {
		return nil
	}
	f, err := os.OpenFile(l.path(id), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fileError(l.dir, fmt.Errorf("open task log: %w", err))
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// What a crash or a full disk cut off goes: a shorter record over it would leave a tail that reads like records.
	if info, err := f.Stat(); err != nil || info.Size() > size.file {
		if err := errors.Join(err, f.Truncate(size.file)); err != nil {
			return fileError(l.dir, fmt.Errorf("write task log: %w", err))
		}
	}
	for len(data) > 0 {
		part := data[:min(len(data), maxLogChunk)]
		data = data[len(part):]
		record := append(binary.BigEndian.AppendUint32([]byte{byte(c.Stream)}, uint32(len(part))), part...)
		crashpoint.Hit("store.TaskLogs.Append.write.before")
		if _, err := f.WriteAt(record, size.file); err != nil {
			return fileError(l.dir, fmt.Errorf("write task log: %w", err))
		}
		crashpoint.Hit("store.TaskLogs.Append.write.after")
		size.add(len(part))
		l.sizes[id] = size
	}
	return nil
}

// Size is the log's length in data bytes; 0 where nothing was logged.
func (l *TaskLogs) Size(id basilica.TaskID) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, err := l.size(id)
	return size.data, err
}

// size measures a log, from its file where this process has not done so yet. A record that a crash cut off does not
// count, and the next append overwrites it.
func (l *TaskLogs) size(id basilica.TaskID) (logSize, error) {
	if size, ok := l.sizes[id]; ok {
		return size, nil
	}
	var size logSize
	f, err := os.Open(l.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return size, nil
	}
	if err != nil {
		return size, fmt.Errorf("open task log: %w", err)
	}
	err = readRecords(bufio.NewReader(f), func(_ basilica.LogStream, data []byte) error {
		size.add(len(data))
		return nil
	})
	if err := errors.Join(err, f.Close()); err != nil {
		return size, err
	}
	l.sizes[id] = size
	return size, nil
}

// Read calls f with the log from offset on, as far as it was written when Read began, and gives the offset after it.
func (l *TaskLogs) Read(id basilica.TaskID, offset int64, f func(basilica.LogChunk) error) (next int64, err error) {
	l.mu.Lock()
	size, err := l.size(id)
	l.mu.Unlock()
	if err != nil || offset >= size.data {
		return offset, err
	}
	file, err := os.Open(l.path(id))
	if err != nil {
		return offset, fmt.Errorf("open task log: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	from := size.before(offset)
	at := from.data
	err = readRecords(bufio.NewReader(io.NewSectionReader(file, from.file, size.file-from.file)), func(stream basilica.LogStream, data []byte) error {
		start := at
		at += int64(len(data))
		if at <= offset {
			return nil
		}
		if start < offset {
			data, start = data[offset-start:], offset
		}
		next = at
		return f(basilica.LogChunk{Offset: start, Stream: stream, Data: data})
	})
	return max(next, offset), err
}

// readRecords calls f with every whole record; a cut one ends it without an error. Data is f's to keep.
func readRecords(r *bufio.Reader, f func(basilica.LogStream, []byte) error) error {
	var head [logHeader]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return endOfLog(err)
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n == 0 || n > maxLogChunk {
			return nil
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(r, data); err != nil {
			return endOfLog(err)
		}
		if err := f(basilica.LogStream(head[0]), data); err != nil {
			return err
		}
	}
}

func endOfLog(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return fmt.Errorf("read task log: %w", err)
}

// Names lists the tasks that have a log.
func (l *TaskLogs) Names() ([]basilica.TaskID, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("list task logs: %w", err)
	}
	var ids []basilica.TaskID
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), logSuffix); ok {
			ids = append(ids, basilica.TaskID(name))
		}
	}
	return ids, nil
}

// Shrink removes the logs longest unwritten while all together have more than keep bytes; those to spare stay.
func (l *TaskLogs) Shrink(keep int64, spare func(basilica.TaskID) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("list task logs: %w", err)
	}
	var logs []fs.FileInfo
	var total int64
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !strings.HasSuffix(entry.Name(), logSuffix) {
			continue
		}
		logs = append(logs, info)
		total += info.Size()
	}
	slices.SortFunc(logs, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	var errs []error
	for _, info := range logs {
		id := basilica.TaskID(strings.TrimSuffix(info.Name(), logSuffix))
		if total <= keep {
			break
		}
		if spare(id) {
			continue
		}
		total -= info.Size()
		delete(l.sizes, id)
		errs = append(errs, os.Remove(filepath.Join(l.dir, info.Name())))
	}
	return errors.Join(errs...)
}
