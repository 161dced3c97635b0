package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"basilica"
	"basilica/keys"
)

// seal encrypts a login to the key of every executor of the chosen miner that could take the task, each as endorsed by the
// miner's hotkey: neither the miner nor anybody else on the way reads it.
func (c *Client) seal(ctx context.Context, at chosen, login basilica.RegistryLogin, spec *basilica.TaskSpec) (*basilica.RegistryAuth, error) {
	ctx, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	offer, err := at.door.Offer(ctx)
	if err != nil {
		return nil, err
	}
	return sealTo(login, at.neuron.Hotkey, offer.Executors, spec)
}

func sealTo(login basilica.RegistryLogin, miner basilica.Hotkey, boxes []basilica.OfferedBox, spec *basilica.TaskSpec) (*basilica.RegistryAuth, error) {
	if host := registryHost(spec.Image); host != login.Server {
		return nil, basilica.E(basilica.Invalid, "REGISTRY_HOST", fmt.Sprintf("the login is for registry %.80q and the image comes from %.80q", login.Server, host), "give --registry-login the host that the image's name begins with")
	}
	secret, err := json.Marshal(login)
	if err != nil {
		return nil, fmt.Errorf("encode login: %w", err)
	}
	auth := &basilica.RegistryAuth{Sealed: map[basilica.ExecutorID][]byte{}}
	var refused error
	for _, box := range boxes {
		if !couldFit(box, spec) {
			continue
		}
		e, err := box.Endorsement.Open()
		if err == nil && (e.Miner != miner || e.Executor != box.Executor) {
			err = basilica.E(basilica.Invalid, "ENDORSEMENT_OTHER", fmt.Sprintf("the endorsement of executor %.80q is of %.80q by %.60s", box.Executor, e.Executor, e.Miner), "use another miner, and tell this one's owner")
		}
		var sealed []byte
		if err == nil {
			sealed, err = keys.SealP256(e.KeySPKI, basilica.RegistryInfo, secret)
		}
		if err != nil {
			refused = errors.Join(refused, err)
			continue
		}
		auth.Sealed[box.Executor] = sealed
	}
	if refused != nil {
		return nil, fmt.Errorf("seal login: %w", refused)
	}
	if len(auth.Sealed) == 0 {
		return nil, basilica.E(basilica.Unavailable, "NO_MINER_READY", "no machine of the miner could take the task, so that the login is sealed to nobody", "see why with `basilica run --dry-run`, or choose another miner")
	}
	return auth, nil
}

// registryHost is the registry that an image's name begins with, as every engine reads it: the part before the first
// slash where that has a dot or a colon or is localhost, and Docker's own otherwise.
func registryHost(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return "docker.io"
}

const maxRegistryConfig = 1 << 20

// ReadRegistryLogin takes the login for a registry from a file in the form of Docker's config.json.
func ReadRegistryLogin(path, server string) (basilica.RegistryLogin, error) {
	text, err := readCapped(path, maxRegistryConfig)
	if err != nil {
		fix := "give the path of a Docker config.json that this user may read"
		if errors.Is(err, fs.ErrNotExist) {
			fix = "log in with `docker login` first, or give the login in the environment or on standard input"
		}
		return basilica.RegistryLogin{}, basilica.E(basilica.Invalid, "REGISTRY_CONFIG", fmt.Sprintf("the file of logins %s cannot be read", path), fix).With(err)
	}
	return parseRegistryConfig(text, path, server)
}

func parseRegistryConfig(text []byte, path, server string) (basilica.RegistryLogin, error) {
	var config struct {
		Auths map[string]struct {
			Auth     string `json:"auth"`
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"auths"`
		CredsStore string `json:"credsStore"`
	}
	bad := func(what, fix string) error {
		return basilica.E(basilica.Invalid, "REGISTRY_CONFIG", fmt.Sprintf("%s holds no login for %s: %s", path, server, what), fix)
	}
	const inline = "give the login in the environment (BASILICA_REGISTRY_USER, BASILICA_REGISTRY_PASSWORD) or on standard input"
	if err := json.Unmarshal(text, &config); err != nil {
		return basilica.RegistryLogin{}, bad("it is not a Docker config.json", inline) // without the cause, which may quote a secret
	}
	names := []string{server, "https://" + server, "https://" + server + "/", "https://" + server + "/v1/", "https://" + server + "/v2/"}
	if server == "docker.io" {
		names = append(names, "https://index.docker.io/v1/", "index.docker.io")
	}
	for _, name := range names {
		entry, ok := config.Auths[name]
		if !ok {
			continue
		}
		login := basilica.RegistryLogin{Server: server, Username: entry.Username, Password: entry.Password}
		if entry.Auth != "" {
			raw, err := base64.StdEncoding.DecodeString(entry.Auth)
			user, password, colon := strings.Cut(string(raw), ":")
			if err != nil || !colon {
				return basilica.RegistryLogin{}, bad("its auth is not user:password in base64", inline)
			}
			login.Username, login.Password = user, strings.TrimRight(password, "\x00")
		}
		if err := CheckLogin(login); err == nil {
			return login, nil
		}
	}
	if config.CredsStore != "" {
		return basilica.RegistryLogin{}, bad("it keeps logins in a credential helper", inline)
	}
	return basilica.RegistryLogin{}, bad("there is none", "log in with `docker login`, or "+inline)
}

const maxLogin = 4096 // bytes of a name or a password; tokens of cloud registries are long

// CheckLogin refuses a login that no registry could take (REGISTRY_LOGIN).
func CheckLogin(l basilica.RegistryLogin) error {
	if l.Username == "" || l.Password == "" || len(l.Username) > maxLogin || len(l.Password) > maxLogin || strings.ContainsAny(l.Username+l.Password, "\x00\r\n") {
		return basilica.E(basilica.Invalid, "REGISTRY_LOGIN", "the login of a registry is a user and a password of one line each", "give both: in BASILICA_REGISTRY_USER and BASILICA_REGISTRY_PASSWORD, as two lines of standard input, or by --registry-config")
	}
	return nil
}
