package sshdoor

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"basilica"
	"basilica/pki"
)

// TestCaseA5_1SSHClock: a certificate that the miner makes now opens the door of a machine whose clock is off by a minute
// either way; beyond, the refusal says by how many seconds. The table is the case's own, the certificate the miner's.
func TestCaseA5_1SSHClock(t *testing.T) {
	authority, err := pki.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(t, func(c *Config) { c.CAs = authority.SSHCAKeys })
	issued := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	cert, err := authority.SSHUserCertificate(d.user.PublicKey().Marshal(), box, "grant-1", "5Validator", []string{"who"}, issued, pki.MaxSSHLife)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(cert)
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.Open("../pki/testdata/cases/A5-1-times.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	rows := 0
	for scan := bufio.NewScanner(table); scan.Scan(); {
		offset, want, ok := strings.Cut(scan.Text(), ",")
		seconds, err := strconv.Atoi(offset)
		if !ok || err != nil {
			continue // the heading
		}
		rows++
		d.now = issued.Add(time.Duration(seconds) * time.Second)
		_, err = d.server.checkCertificate(box, key)
		if strings.HasPrefix(want, "accept") {
			if err != nil {
				t.Errorf("%s s: %v", offset, err)
			}
			continue
		}
		side := "behind"
		if seconds > 0 {
			side = "ahead"
		}
		if said := fmt.Sprintf("%d s %s", max(seconds, -seconds), side); basilica.KindOf(err) != basilica.Denied || !strings.Contains(fmt.Sprint(err), said) {
			t.Errorf("%s s: %v, want %q", offset, err, said)
		}
	}
	if rows != 7 {
		t.Errorf("%d rows in the table", rows)
	}
}
