//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// buildWaxseal builds the daemon as make does, and once more without libcrypto.
func buildWaxseal(ctx context.Context, dir string) ([]*program, error) {
	var built []*program
	for _, b := range []struct{ name, file, tags string }{
		{"waxseal", "waxseal", ""},
		{"waxseal (Go)", "waxseal-go", "nolibcrypto"},
	} {
		p := &program{name: b.name, ours: true, path: filepath.Join(dir, b.file), setUp: setUpWaxseal}
		command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", b.tags, "-o", p.path, "waxseal/cmd/waxseal")
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: %w\n%s", b.name, err, out)
		}
		var err error
		if p.version, err = firstLine(p.path, "--version"); err != nil {
			return nil, err
		}
		p.version = strings.TrimPrefix(p.version, "waxseal ")
		built = append(built, p)
	}
	return built, nil
}

// setUpWaxseal makes a keystore and a configuration like that of the peers.
func setUpWaxseal(ctx context.Context, path string, s *site) ([]string, error) {
	quoted := fmt.Sprintf("%q", signedFields)
	config, err := s.write("waxseal.toml", fmt.Sprintf(`[listen.bench]
address = %q
mode = "0666"
[keystore]
url = "dir:%s"
[signing]
canonicalization = "relaxed/relaxed"
fields = %s
oversign = ["From"]
[log]
level = "error"
`, s.at.postfix(), filepath.Join(s.dir, "keys"), strings.ReplaceAll(quoted, `" "`, `", "`)))
	if err != nil {
		return nil, err
	}
	for _, a := range s.algorithms {
		for _, args := range [][]string{
			{"key", "import", domain, string(a), s.keys.pem[a], "--config", config},
			{"key", "activate", domain, string(a), "--force", "--reason", "bench", "--config", config},
		} {
			if out, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil {
				return nil, fmt.Errorf("waxseal %s: %w\n%s", strings.Join(args, " "), err, out)
			}
		}
	}
	return []string{path, "serve", "--config", config}, nil
}
