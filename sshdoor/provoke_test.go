package sshdoor

import (
	"testing"

	"golang.org/x/crypto/ssh"

	"basilica/internal/provoke"
)

func TestRefusals(t *testing.T) {
	provoke.Each(t, map[string]func(*testing.T) error{
		"SSH_NO_CERTIFICATE": func(t *testing.T) error {
			d, said := newDoor(t, nil), ""
			conn, err := ssh.Dial("tcp", d.addr, &ssh.ClientConfig{
				Config: modern(), User: box, Auth: []ssh.AuthMethod{ssh.PublicKeys(d.user)}, HostKeyCallback: ssh.FixedHostKey(d.host.PublicKey()),
				BannerCallback: func(message string) error { said = message; return nil },
			})
			if err == nil {
				t.Error("a key without a certificate came in")
				conn.Close()
			}
			return bannerRefusal(said)
		},
		"SSH_SUBSYSTEM_FAILED": func(t *testing.T) error {
			return visitOnce(t, newSSHPeer(t, nil, func(_ *frozen, _ *ssh.ServerConn, channels <-chan ssh.NewChannel) {
				if ch := serving(channels); ch != nil {
					_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{7}))
					ch.Close()
					untilGone(ch)
				}
			}))
		},
	})
}
