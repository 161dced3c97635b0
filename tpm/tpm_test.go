package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"basilica"
	"basilica/attest"
	"basilica/internal/provoke"
	"basilica/keys"
)

// emulator starts swtpm, a whole TPM 2.0 in a process of its own, and gives its socket.
func emulator(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	return startEmulator(t, dir, dir)
}

// startEmulator starts swtpm over the state in dir.
func startEmulator(t testing.TB, dir, sockets string) string {
	t.Helper()
	bin, err := exec.LookPath("swtpm")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI has no swtpm: scripts/setup.sh test installs it")
		}
		t.Skip("no swtpm, so no TPM to test against: apt-get install swtpm")
	}
	socket, pid := filepath.Join(sockets, "tpm.sock"), filepath.Join(sockets, "pid")
	// It goes to the background once its sockets are there.
	out, err := exec.Command(bin, "socket", "--tpm2", "--daemon", "--pid", "file="+pid, "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "not-need-init,startup-clear").CombinedOutput()
	if err != nil {
		t.Fatalf("swtpm: %v: %s", err, out)
	}
	t.Cleanup(func() {
		text, err := os.ReadFile(pid)
		if err != nil {
			t.Error(err)
			return
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || n < 2 {
			t.Errorf("swtpm's pid %q", text)
			return
		}
		if err := syscall.Kill(n, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
	})
	return socket
}

func create(t testing.TB, path string) (*Key, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "attest.key")
	k, err := Create(path, file)
	if err != nil {
		t.Fatal(err)
	}
	return k, file
}

// slots is how many objects are loaded in the TPM.
func slots(t testing.TB, path string) int {
	t.Helper()
	d, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	loaded, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x80000000, PropertyCount: 32}.Execute(d)
	if err != nil {
		t.Fatal(err)
	}
	handles, err := loaded.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return len(handles.Handle)
}

func TestKey(t *testing.T) {
	t.Parallel()
	path := emulator(t)
	k, file := create(t, path)
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	if _, err := Create(path, file); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second key in the same file: %v", err)
	}
	again, err := LoadOrCreate(path, file)
	if err != nil || !bytes.Equal(again.SPKI(), k.SPKI()) {
		t.Fatal("the same file gave another key", err)
	}
	if _, err := keys.ParseP256SPKI(k.SPKI()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	high := 0
	for _, n := range []int{4, 5, 1023, 1024, 1025, 2048, 5000, 40_000} { // around what one command takes
		msg := bytes.Repeat([]byte{byte(n)}, n)
		sig, err := again.Sign(msg)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if err := keys.VerifyP256(k.SPKI(), msg, sig); err != nil { // refuses a high s too
			t.Errorf("%d bytes: %v", n, err)
		}
		if sig[32] >= 0x80 {
			high++
		}
	}
	t.Logf("8 signatures of a TPM emulator, the key loaded anew each time: %v", time.Since(began).Round(time.Millisecond))
	if high > 0 {
		t.Errorf("%d signatures with a high s", high)
	}
	if _, err := again.Sign([]byte{0xff, 'T', 'C', 'G', 0x80, 0x18}); basilica.CodeOf(err) != "TPM_REFUSED" {
		t.Errorf("it signed what looks like a TPM's own word: %v", err)
	}
	if n := slots(t, path); n != 0 {
		t.Errorf("%d objects were left in the TPM", n)
	}
}

// TestQuote holds the offline verifier against a TPM's own quotes, and shows that a key in a file gives the same bytes: a
// quote alone proves no TPM.
func TestQuote(t *testing.T) {
	t.Parallel()
	k, _ := create(t, emulator(t))
	nonce := attest.Digest(sha256.Sum256([]byte("transcript")))
	quote, err := k.Quote(nonce[:])
	if err != nil {
		t.Fatal(err)
	}
	q, err := attest.VerifyTPMQuote(k.SPKI(), quote, nonce)
	if err != nil || !bytes.Equal(q.PCRs, []byte{0xff, 0, 0}) || len(q.Signer) != 34 || q.Firmware == 0 {
		t.Fatalf("%+v, %v", q, err)
	}
	later, err := k.Quote(nonce[:])
	if err != nil {
		t.Fatal(err)
	}
	if r, err := attest.VerifyTPMQuote(k.SPKI(), later, nonce); err != nil || r.Clock < q.Clock || !bytes.Equal(r.PCRsSHA256, q.PCRsSHA256) {
		t.Errorf("%+v after %+v, %v", r, q, err)
	}
	if _, err := attest.VerifyTPMQuote(k.SPKI(), quote, attest.Digest{1}); !errors.Is(err, attest.ErrTPMQuote) {
		t.Errorf("a quote of another nonce: %v", err)
	}
	forger, err := keys.GenerateP256()
	if err != nil {
		t.Fatal(err)
	}
	said := quote[2 : len(quote)-keys.P256SignatureSize]
	sig, err := forger.Sign(said)
	if err != nil {
		t.Fatal(err)
	}
	forged := append(bytes.Clone(quote[:len(quote)-keys.P256SignatureSize]), sig...)
	if _, err := attest.VerifyTPMQuote(k.SPKI(), forged, nonce); !errors.Is(err, attest.ErrTPMQuote) {
		t.Errorf("a quote of another key: %v", err)
	}
	if _, err := attest.VerifyTPMQuote(forger.SPKI(), forged, nonce); err != nil {
		t.Errorf("the forger's own: %v", err)
	}
}

// TestManyAtOnce has several provers use one TPM, which has three slots, at the same time.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	path := emulator(t)
	k, file := create(t, path)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			mine, err := Load(path, file)
			if err != nil {
				t.Error(err)
				return
			}
			msg := bytes.Repeat([]byte{byte(i)}, 1500)
			sig, err := mine.Sign(msg)
			if err == nil {
				err = keys.VerifyP256(k.SPKI(), msg, sig)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := slots(t, path); n != 0 {
		t.Errorf("%d objects were left in the TPM", n)
	}
}

// TestRestart: the key outlives the TPM's power.
func TestRestart(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	k, file := create(t, startEmulator(t, state, t.TempDir()))
	// The first one holds the state; it goes when its socket's owner does.
	d, err := open(k.path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}).Execute(d); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(copied, ".lock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	again, err := Load(startEmulator(t, copied, t.TempDir()), file)
	if err != nil || !bytes.Equal(again.SPKI(), k.SPKI()) {
		t.Fatal(err)
	}
}

// lockOut makes a TPM refuse every password for a while, as a program that guesses one does.
func lockOut(t testing.TB, path string) {
	t.Helper()
	d, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	guarded := tpm2.ECCSRKTemplate
	guarded.ObjectAttributes.NoDA = false
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(guarded),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")}}},
	}.Execute(d)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 { // libtpms takes 3 wrong ones, others up to 32
		_, err = tpm2.Create{ParentHandle: tpm2.AuthHandle{Handle: made.ObjectHandle, Name: made.Name, Auth: tpm2.PasswordAuth([]byte("guess"))}, InPublic: tpm2.New2B(template())}.Execute(d)
		if errors.Is(err, tpm2.TPMRCLockout) {
			break
		}
	}
	if !errors.Is(err, tpm2.TPMRCLockout) {
		t.Fatalf("not locked: %v", err)
	}
	if err := d.flush(made.ObjectHandle); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	provoke.Each(t, map[string]func(*testing.T) error{
		"TPM_ABSENT": func(t *testing.T) error {
			_, err := Create(filepath.Join(t.TempDir(), "tpmrm0"), filepath.Join(t.TempDir(), "key"))
			return err
		},
		"TPM_DENIED": func(t *testing.T) error {
			path := filepath.Join(t.TempDir(), "tpmrm0")
			if err := os.WriteFile(path, nil, 0); err != nil {
				t.Fatal(err)
			}
			denied := make(chan error)
			go func() {
				runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
				if os.Geteuid() == 0 {
					header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
					if err := unix.Capset(&header, &make([]unix.CapUserData, 2)[0]); err != nil {
						denied <- err
						return
					}
				}
				_, err := Create(path, "key")
				denied <- err
			}()
			return <-denied
		},
		"TPM_KEY_FOREIGN": func(t *testing.T) error {
			_, file := create(t, emulator(t))
			_, err := LoadOrCreate(emulator(t), file)
			return err
		},
		"TPM_OWNER_AUTH": func(t *testing.T) error {
			path := emulator(t)
			_, file := create(t, path)
			d, err := open(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := (tpm2.HierarchyChangeAuth{AuthHandle: tpm2.TPMRHOwner, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")}}).Execute(d); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			_, err = Load(path, file)
			return err
		},
		"TPM_LOCKOUT": func(t *testing.T) error {
			path := emulator(t)
			k, _ := create(t, path)
			// A key of the same form that another tool made: guarded against guessing, so that others' guesses lock it too.
			guarded := &Key{path: path}
			err := guarded.with(func(d *device, parent tpm2.NamedHandle) error {
				want := template()
				want.ObjectAttributes.NoDA = false
				made, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(want)}.Execute(d)
				if err != nil {
					return err
				}
				guarded.public, guarded.private = made.OutPublic, made.OutPrivate
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			lockOut(t, path)
			msg := []byte("our own key has no password that could be guessed")
			sig, err := k.Sign(msg)
			if err == nil {
				err = keys.VerifyP256(k.SPKI(), msg, sig)
			}
			if err != nil {
				t.Errorf("a locked TPM stopped our key: %v", err)
			}
			_, err = guarded.Sign(msg)
			return err
		},
		"TPM_REFUSED": func(t *testing.T) error {
			k, _ := create(t, emulator(t))
			_, err := k.Quote(make([]byte, 200)) // longer than any nonce
			return err
		},
		"TPM_FAILED": func(t *testing.T) error {
			_, err := Create("/dev/null", filepath.Join(t.TempDir(), "key"))
			return err
		},
	})
}

func TestFile(t *testing.T) {
	t.Parallel()
	k, file := create(t, emulator(t))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !IsFile(text) || IsFile([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")) {
		t.Error("a TPM key's file is not told from another")
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(k.path, file); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
	for what, change := range map[string]func(p *tpm2.TPMTPublic){
		"not restricted":  func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false },
		"may be moved":    func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false },
		"came from a man": func(p *tpm2.TPMTPublic) { p.ObjectAttributes.SensitiveDataOrigin = false },
		"decrypts":        func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true },
		"off the curve": func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{1}}, Y: tpm2.TPM2BECCParameter{Buffer: []byte{1}}})
		},
		"of no curve": func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: make([]byte, 99)}, Y: tpm2.TPM2BECCParameter{Buffer: []byte{1}}})
		},
		"no scheme": func(p *tpm2.TPMTPublic) {
			p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		},
	} {
		area, err := k.public.Contents()
		if err != nil {
			t.Fatal(err)
		}
		changed := *area
		change(&changed)
		bad := Key{public: tpm2.New2B(changed), private: k.private}
		text, err := bad.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(text); err == nil {
			t.Errorf("a key that %s was read", what)
		}
	}
	pub, err := keys.ParseP256SPKI(k.SPKI())
	if err != nil {
		t.Fatal(err)
	}
	if area, err := k.public.Contents(); err != nil {
		t.Error(err)
	} else if same, err := tpm2.Pub(*area); err != nil || !pub.Equal(same.(*ecdsa.PublicKey)) {
		t.Error("the SPKI is of another key", err)
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n"))
	text, err := os.ReadFile("testdata/attest.key") // of an emulator that is gone
	if err != nil {
		f.Fatal(err)
	}
	if _, err := parse(text); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parse(text)
		if err != nil {
			return
		}
		again, err := k.encode()
		if err != nil {
			t.Fatal(err)
		}
		if l, err := parse(again); err != nil || !bytes.Equal(l.SPKI(), k.SPKI()) {
			t.Errorf("read, written and read again: %v", err)
		}
	})
}
