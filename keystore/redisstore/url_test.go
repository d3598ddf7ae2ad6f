package redisstore

import (
	"errors"
	"strings"
	"testing"
)

func TestURLs(t *testing.T) {
	for _, test := range []struct {
		url, hosts, user, set string
		db                    int
		err                   string
	}{
		{url: "redis://127.0.0.1", hosts: "127.0.0.1:6379"},
		{url: "redis://mail@[::1]:7000/3?prefix=x:", hosts: "[::1]:7000", user: "mail", db: 3},
		{url: "redis://[::1]/3", hosts: "[::1]:6379", db: 3},
		{url: "rediss://redis.example", hosts: "redis.example:6379"},
		{url: "redis+unix:///run/redis/redis.sock", hosts: "/run/redis/redis.sock"},
		{url: "redis+sentinel://a,b:26380/mymaster/2?sentinel_user=s", hosts: "a:26379,b:26380", set: "mymaster", db: 2},
		{url: "redis+cluster://u@a,b:7000?replicas=2", hosts: "a:6379,b:7000", user: "u"},
		{url: "redis://127.0.0.1?layout=mailcow&selector=ed1,ed2", hosts: "127.0.0.1:6379"},
		{url: "127.0.0.1", err: "not a URL"},
		{url: "http://127.0.0.1", err: "unknown scheme"},
		{url: "rediss+unix:///s", err: "unknown scheme"},
		{url: "redis://u:p@127.0.0.1", err: "password_file"},
		{url: "redis://a,b", err: "redis+sentinel"},
		{url: "redis://", err: "host is missing"},
		{url: "redis://a/x", err: "number"},
		{url: "redis://a/-1", err: "number"},
		{url: "redis+unix://a/s", err: "three slashes"},
		{url: "redis+sentinel://a", err: "name that Sentinel"},
		{url: "redis+cluster://a/1", err: "no numbered databases"},
		{url: "redis://a?perfix=x", err: "perfix"},
		{url: "redis://a?prefix=", err: "empty"},
		{url: "redis://a?prefix=a&prefix=b", err: "twice"},
		{url: "redis://a?replicas=-1", err: "number"},
		{url: "redis://a?layout=postfix", err: "layout"},
		{url: "redis://a?layout=rspamd", err: "selector=dkim"},
		{url: "redis://a?layout=rspamd&selector=A", err: "upper-case"},
		{url: "redis://a?layout=mailcow&prefix=x", err: "no meaning"},
		{url: "redis://a?ca=/x", err: "no meaning"},
		{url: "redis://a?sentinel_user=x", err: "no meaning"},
		{url: "rediss://a?ca=/does/not/exist", err: "ca"},
		{url: "rediss://a?cert=/does/not/exist", err: "missing"},
		{url: "redis://a?%zz", err: "options"},
	} {
		got, err := parseURL(test.url, nil)
		switch {
		case test.err == "" && err != nil, test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: error %v, want %q", test.url, err, test.err)
		case test.err == "" && (strings.Join(got.hosts, ",") != test.hosts || got.user != test.user || got.set != test.set || got.db != test.db):
			t.Errorf("%s: %+v", test.url, got)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: the error shows the password: %v", test.url, err)
		}
	}
	refused := errors.New("no such credential")
	if _, err := parseURL("redis://a?password_file=x", func(string) (string, error) { return "", refused }); !errors.Is(err, refused) {
		t.Errorf("a password file that is not there: %v", err)
	}
}

func FuzzURL(f *testing.F) {
	f.Add("redis://mail@[::1]:7000/3?prefix=x:")
	f.Add("redis+sentinel://a,b:26380/mymaster/2?sentinel_user=s")
	f.Add("redis://u:secret@127.0.0.1?layout=mailcow")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "ca=") || strings.Contains(text, "cert=") || strings.Contains(text, "key=") {
			return // names files
		}
		got, err := parseURL(text, nil)
		if err == nil && (len(got.hosts) == 0 || got.layout == "" || got.db < 0) {
			t.Errorf("%q: %+v", text, got)
		}
	})
}
