package main

import "testing"

func TestAWrittenConfigurationReadsBack(t *testing.T) {
	for _, text := range []string{
		"", "[listen.milter]\naddress = \"inet:127.0.0.1:1\"\n[listen.\"a b\".origin]\nall = true\n",
		"[row.\"example.com\"]\ndomain = \"example.com\"\nenabled = false\n[row.x]\ndomain = \"*\"\n[row.x.outcome]\nno_key = \"tempfail\"\n[origin]\nnetworks = []\n",
		"[permission]\ncheck = false\nlogin_domains = []\n[permission.grant.\"@\"]\nlogin = \"*\"\nany_domain = true\n[metrics]\nper_domain = true\n",
	} {
		d, err := decodeConfig("a", text)
		if err != nil {
			t.Fatal(err)
		}
		written := writeConfig(d.Config, map[string]string{"row.x": "why\nso", "origin.networks": "why"})
		back, err := decodeConfig("b", written)
		if err != nil {
			t.Errorf("%v\n%s", err, written)
			continue
		}
		if again := writeConfig(back.Config, nil); again != writeConfig(d.Config, nil) {
			t.Errorf("%s\nis read back as\n%s", written, again)
		}
	}
}
