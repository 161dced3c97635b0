package basilica

import "strings"

// ImageBlobPrefix begins the image name of a task whose image is a tar file (docker save) that the client stored at the
// miner as a blob; 64 hex digits of its SHA-256 follow.
const ImageBlobPrefix = "blob:sha256:"

// ImageBlob gives the digest of the tar file that an image name stands for; the second value is false where the name is
// one of a registry or an engine.
func ImageBlob(image string) (Digest, bool) {
	var d Digest
	hexed, ok := strings.CutPrefix(image, ImageBlobPrefix)
	if !ok || d.UnmarshalText([]byte(hexed)) != nil || d.String() != hexed {
		return Digest{}, false
	}
	return d, true
}

// RegistryInfo is the HPKE info (RFC 9180) under which credentials of a registry are sealed.
const RegistryInfo = "basilica/registry/1"

// RegistryAuth carries a client's credentials for the registry of its image. Each value is the JSON of a RegistryLogin,
// sealed (keys.SealP256, RegistryInfo) to the endorsed key of one executor: neither the miner nor a disk sees it in clear.
type RegistryAuth struct {
	Sealed map[ExecutorID][]byte `json:"sealed"`
}

// RegistryLogin is what a registry asks of who pulls. It is never stored and never logged.
type RegistryLogin struct {
	Server   string `json:"server"` // host, or host and port, as it stands in the image's name
	Username string `json:"username"`
	Password string `json:"password"`
}

// String keeps credentials out of logs and errors.
func (l RegistryLogin) String() string { return "login of " + l.Server }

// GoString keeps credentials out of logs and errors.
func (l RegistryLogin) GoString() string { return l.String() }
