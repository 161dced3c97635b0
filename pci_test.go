package basilica_test

import (
	"testing"

	"basilica"
)

func TestParsePCI(t *testing.T) {
	for text, want := range map[string]string{
		"00000000:0B:00.0": "0000:0b:00.0",
		"0000:0b:1f.7":     "0000:0b:1f.7",
		"3f8cfdd:00:00.0":  "3f8cfdd:00:00.0",
		"03F8CFDD:00:00.0": "3f8cfdd:00:00.0",
		"00010000:E1:00.0": "10000:e1:00.0",
		"FFFFFFFF:FF:1F.7": "ffffffff:ff:1f.7",
		"1:0.0":            "0000:01:00.0",
	} {
		if p, err := basilica.ParsePCI(text); err != nil || p.String() != want {
			t.Errorf("%q is %s (%v), want %s", text, p, err, want)
		}
	}
	for _, text := range []string{
		"", "0000:0b:00", "0000:0b:00.8", "0000:0b:20.0", "000000000:0b:00.0", "0000:00b:00.0", "0000:0b:00.00", "0:0:0:0.0", "+1:0b:00.0",
		"0x0:0b:00.0", "0000:0g:00.0", " 0000:0b:00.0", "0000:0b:00.0\n", "0000::00.0", ":0b:00.0", "0b.0", "0000:0b:00.",
	} {
		if p, err := basilica.ParsePCI(text); err == nil {
			t.Errorf("%q is read as %s", text, p)
		}
	}
}

func FuzzParsePCI(f *testing.F) {
	for _, s := range []string{"00000000:0B:00.0", "3f8cfdd:00:00.0", "1:0.0", "a:b:c.d", "....::::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := basilica.ParsePCI(s)
		if err != nil {
			return
		}
		if again, err := basilica.ParsePCI(p.String()); err != nil || again != p {
			t.Errorf("%q is %s, and that is %s (%v)", s, p, again, err)
		}
	})
}
