package testnet

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basilica"
)

// shown is a test that shows a refusal: a function of a package, or a script of this one that a function runs.
type shown struct{ where, test string }

// refusals are what a person may meet at each door, and where code and words are shown through the real door.
func refusals() map[string]struct {
	codes []string
	tests []shown
} {
	type r = struct {
		codes []string
		tests []shown
	}
	return map[string]r{
		"data directory locked":                         {[]string{"DATA_IN_USE"}, []shown{{"node", "TestMinerWithoutRegistration"}, {"store", "TestCaseA6_3TwoValidatorsOnOneDirectory"}, {"testdata/network/client.txtar", "TestCommandLineOnNetwork"}}},
		"data directory of a newer version":             {[]string{"SCHEMA_NEWER"}, []shown{{"store", "TestRefusals"}}},
		"port taken":                                    {[]string{"PORT_TAKEN"}, []shown{{"node", "TestRefusals"}, {"testdata/script/machine.txtar", "TestCommandLine"}}},
		"Docker absent or stopped":                      {[]string{"DOCKER_ABSENT"}, []shown{{"docker", "TestAbsentEngine"}, {"executor", "TestEngineAwayForAWhile"}, {"testdata/script/machine.txtar", "TestCommandLine"}}},
		"wrong wallet password":                         {[]string{"KEY_PASSWORD_WRONG"}, []shown{{"node", "TestEncryptedHotkey"}}},
		"unknown or mistyped key of the configuration":  {[]string{"CONFIG_UNKNOWN_KEY"}, []shown{{"node", "TestLoadConfigRefusals"}, {"testdata/script/config.txtar", "TestCommandLine"}}},
		"bad signature of a request":                    {[]string{"AUTH_SIGNATURE"}, []shown{{"axon", "TestDoorRefuses"}}},
		"replayed request":                              {[]string{"AUTH_REPLAYED"}, []shown{{"axon", "TestCaseA2_2SlowUploadIsNotStale"}, {"axon", "TestDoorRefuses"}}},
		"clock off by ten minutes at the axon":          {[]string{"AUTH_STALE"}, []shown{{"axon", "TestCaseA2_1ClockSaysWhichSide"}}},
		"clock off by ten minutes between machines":     {[]string{"CLOCK_SKEW"}, []shown{{"wire", "TestExecutorDoorNamesEachRefusal"}}},
		"validator without permit":                      {[]string{"VALIDATOR_NO_PERMIT"}, []shown{{"miner", "TestOpenValidation"}}},
		"validator under the minimum stake":             {[]string{"VALIDATOR_STAKE"}, []shown{{"miner", "TestOpenValidation"}}},
		"expired SSH certificate":                       {[]string{"SSH_EXPIRED"}, []shown{{"sshdoor", "TestCertificatesRefused"}, {"sshdoor", "TestCaseA5_1SSHClock"}}},
		"SSH certificate for another executor":          {[]string{"SSH_PRINCIPAL"}, []shown{{"sshdoor", "TestCertificatesRefused"}}},
		"JWT for another executor":                      {[]string{"TOKEN_REFUSED"}, []shown{{"wire", "TestExecutorDoorNamesEachRefusal"}}},
		"an executor's certificate at another's door":   {[]string{"NOT_THE_MINER"}, []shown{{"wire", "TestExecutorDoorNamesEachRefusal"}}},
		"executor without a certificate":                {[]string{"CERTIFICATE_MISSING"}, []shown{{"wire", "TestFleetDoorNamesEachRefusal"}}},
		"join token used twice":                         {[]string{"TOKEN_USED"}, []shown{{"miner", "TestEnroll"}, {"store", "TestTokenSpentOnce"}}},
		"join token expired":                            {[]string{"TOKEN_EXPIRED"}, []shown{{"miner", "TestEnroll"}}},
		"join token of another miner":                   {[]string{"TOKEN_UNKNOWN", "TOKEN_OTHER_MINER"}, []shown{{"miner", "TestEnroll"}, {"wire", "TestRefusals"}}},
		"oversize body":                                 {[]string{"BODY_SIZE"}, []shown{{"axon", "TestDoorRefuses"}}},
		"oversize message":                              {[]string{"MESSAGE_SIZE"}, []shown{{"wire", "TestFleetDoorNamesEachRefusal"}}},
		"task that asks for more than any executor has": {[]string{"TASK_TOO_LARGE"}, []shown{{"client", "TestPick"}, {"testdata/network/client.txtar", "TestCommandLineOnNetwork"}}},
		"image that does not exist":                     {[]string{"IMAGE_NOT_FOUND"}, []shown{{"docker", "TestPullRefusals"}, {"testdata/network/client.txtar", "TestCommandLineOnNetwork"}}},
		"job over its memory":                           {[]string{"OUT_OF_MEMORY"}, []shown{{"executor", "TestEnds"}, {"testdata/network/client.txtar", "TestCommandLineOnNetwork"}}},
		"job over its time":                             {[]string{"TIMED_OUT"}, []shown{{"executor", "TestEnds"}}},
		"job over its output size":                      {[]string{"OUTPUT_SIZE", "OUTPUT_FULL"}, []shown{{"executor", "TestEnds"}, {"testdata/network/client.txtar", "TestCommandLineOnNetwork"}}},
		"outputs with a link":                           {[]string{"OUTPUT_LINK"}, []shown{{"executor", "TestEnds"}, {"testdata/network/client.txtar", "TestCommandLineOnNetwork"}}},
		"outputs with a device, pipe or socket":         {[]string{"OUTPUT_SPECIAL"}, []shown{{"executor", "TestEnds"}, {"executor", "TestOutputsSwappedWhileRead"}}},
		"outputs named with ..":                         {[]string{"OUTPUT_NAME", "FILE_NAME"}, []shown{{"executor", "TestOutputNames"}, {"client", "TestLyingMiner"}}},
		"outputs whose names differ by case":            {[]string{"OUTPUT_TWICE"}, []shown{{"executor", "TestEnds"}, {"testdata/network/client.txtar", "TestCommandLineOnNetwork"}}},
		"image with a VOLUME":                           {[]string{"IMAGE_VOLUME"}, []shown{{"docker", "TestImageVolumesAreMasked"}}},
		"axon without a published key":                  {[]string{"AXON_WITHOUT_KEY"}, []shown{{"axon", "TestClientRefuses"}}},
		"address in a private range outside localnet":   {[]string{"ADDRESS_PRIVATE", "ADDRESS_NOT_PUBLIC"}, []shown{{"axon", "TestClientRefuses"}, {"sshdoor", "TestClientRefusals"}}},
	}
}

// TestRefusalsAreShown holds the list against the tests: each stands where the list says, and each code in the list has a row
// and stands in the file of one of its tests, by itself or by the constant that is its name.
func TestRefusalsAreShown(t *testing.T) {
	files := map[string]string{}
	tests := map[shown]string{} // and their files
	rooms := map[string]bool{}
	for what, r := range refusals() {
		text := ""
		for _, s := range r.tests {
			dir := filepath.Join("..", "..", s.where)
			if script, ok := strings.CutPrefix(s.where, "testdata/"); ok {
				content, err := os.ReadFile(filepath.Join("testdata", script))
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
				text += string(content)
				dir, s.where = ".", "internal/testnet"
			}
			if !rooms[s.where] {
				rooms[s.where] = true
				readTests(t, dir, s.where, tests, files)
			}
			path, ok := tests[s]
			if !ok {
				t.Errorf("%s: there is no %s in %s", what, s.test, s.where)
			}
			text += files[path]
		}
		for _, code := range r.codes {
			if _, ok := basilica.Explain(code); !ok {
				t.Errorf("%s: %s has no row", what, code)
			}
			constant := "code" + strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(code, "AUTH_")), "_", "")
			if !strings.Contains(text, code) && !strings.Contains(strings.ToLower(text), constant) {
				t.Errorf("%s: none of its tests names %s", what, code)
			}
		}
	}
}

func readTests(t *testing.T, dir, where string, tests map[shown]string, files map[string]string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = string(content)
		f, err := parser.ParseFile(token.NewFileSet(), path, content, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				tests[shown{where, fn.Name.Name}] = path
			}
		}
	}
}
