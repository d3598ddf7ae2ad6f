package main

import (
	"context"
	"crypto/ed25519"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/milter"
	"waxseal/milter/policy"
	"waxseal/signer"
)

func TestMailServersComeFromTheFile(t *testing.T) {
	d, err := decodeConfig("waxseal.toml", "[listen.a]\naddress = \"unix:/s\"\nmta = \"sendmail\"\nmasquerade = [\"Mail.Example.com\", \".b\u00fccher.example\"]\nmasquerade_recipients = true\n[listen.b]\naddress = \"unix:/t\"")
	if err != nil {
		t.Fatal(err)
	}
	s, err := buildSettings(d)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]milter.Peer{
		"a": {MTA: milter.MTASendmail, Masquerade: &signer.Masquerade{Domains: []string{"mail.example.com", ".xn--bcher-kva.example"}, Recipients: true}},
		"b": {MTA: milter.MTAAuto},
	}
	if !reflect.DeepEqual(s.Peers, want) {
		t.Errorf("got %+v, want %+v", s.Peers, want)
	}
}

// TestEveryRiskIsASetting, is in effect, and is in the README.
func TestEveryRiskIsASetting(t *testing.T) {
	for _, name := range milter.RiskNames() {
		d, err := decodeConfig("waxseal.toml", "[risk]\n"+string(name)+" = \"reject\"")
		if err != nil {
			t.Fatal(err)
		}
		s, err := buildSettings(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range milter.RiskNames() {
			want := milter.DefaultRiskAction(other)
			if other == name {
				want = milter.RiskReject
			}
			if s.Risks[other] != want {
				t.Errorf("%s = \"reject\" makes %s %q, want %q", name, other, s.Risks[other], want)
			}
		}
		row := regexp.MustCompile(`(?m)^\|[^|]*` + "`" + string(name) + "`" + `[^|]*\|[^|]*\| ` + string(milter.DefaultRiskAction(name)) + ` \|`)
		if !row.MatchString(readme(t)) {
			t.Errorf("the README's table does not have %s with its default %s", name, milter.DefaultRiskAction(name))
		}
	}
}

// TestExplainTellsTheRisksOfAMessage, and none of an address alone.
func TestExplainTellsTheRisksOfAMessage(t *testing.T) {
	rules, err := policy.New(policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &milter.Settings{Rules: rules, Keys: oneKey(t, "example.com")}
	message := func() *rawMessage {
		return &rawMessage{fields: []rawField{{"From", " ann@example.com"}}, body: strings.NewReader(strings.Repeat("x", 2000) + "\r\n")}
	}
	c := policy.Connection{Local: true, MTA: "Postfix 3.7.11"}
	now := func() time.Time { return time.Unix(1_800_000_000, 0) }

	e := explainMessage(context.Background(), s, c, "", message(), now)
	var got []string
	for _, r := range e.Result.Risks {
		got = append(got, r.Risk+" "+r.Action)
		if r.Why == "" || r.Remedy == "" {
			t.Errorf("%+v", r)
		}
	}
	if want := []string{"long_body_line sign", "missing_date sign", "missing_message_id sign"}; !e.Result.Signed || !reflect.DeepEqual(got, want) {
		t.Errorf("signed: %v, risks %v, want %v", e.Result.Signed, got, want)
	}

	s.Risks = milter.RiskActions{signer.MissingDate: milter.RiskReject}
	if e := explainMessage(context.Background(), s, c, "", message(), now); e.Result.Signed || !strings.Contains(e.Result.Reply, "550 5.6.0") {
		t.Errorf("%+v", e.Result)
	}
	address := message()
	address.authorOnly = true
	if e := explainMessage(context.Background(), s, c, "", address, now); !e.Result.Signed || e.Result.Risks != nil {
		t.Errorf("of an address alone: %+v", e.Result)
	}
}

// oneDomain is a keystore of one domain, with an Ed25519 key.
type oneDomain struct{ signing *keystore.Signing }

func oneKey(t *testing.T, domain string) oneDomain {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return oneDomain{&keystore.Signing{Domain: domain, Keys: []keystore.SigningKey{{Selector: "s", Algorithm: keystore.Ed25519, Signer: key}}}}
}

func (o oneDomain) Cached(domain string) (*keystore.Signing, error, bool) {
	s, err := o.Signing(context.Background(), domain)
	return s, err, true
}

func (o oneDomain) Signing(_ context.Context, domain string) (*keystore.Signing, error) {
	if domain != o.signing.Domain {
		return nil, keystore.ErrNotFound
	}
	return o.signing, nil
}
