//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// machine is what the figures depend on.
type machine struct {
	Date       string `json:"date"`
	Processors int    `json:"processors"`
	Model      string `json:"model"`
	IFMA       bool   `json:"avx512ifma"` // what libcrypto needs for its fastest RSA-2048
	Kernel     string `json:"kernel"`
	LoadBefore string `json:"load_average"` // of one minute
	Go         string `json:"go"`
	Libcrypto  string `json:"libcrypto"`
	Postfix    string `json:"postfix,omitempty"`
}

func thisMachine() machine {
	m := machine{
		Date:       time.Now().UTC().Format("2006-01-02 15:04 MST"),
		Processors: runtime.NumCPU(),
		Model:      runtime.GOARCH,
		Kernel:     fileWord("/proc/sys/kernel/osrelease"),
		LoadBefore: fileWord("/proc/loadavg"),
		Go:         runtime.Version(),
		Libcrypto:  findLibcrypto(),
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m // it says less, and is right
	}
	for line := range strings.Lines(string(info)) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "model name":
			m.Model = strings.TrimSpace(value)
		case "flags":
			m.IFMA = slices.Contains(strings.Fields(value), "avx512ifma")
		}
	}
	return m
}

// fileWord returns the first word of a file.
func fileWord(name string) string {
	b, _ := os.ReadFile(name)
	if words := strings.Fields(string(b)); len(words) > 0 {
		return words[0]
	}
	return "unknown"
}

// findLibcrypto tells where the system's libcrypto is and what it calls itself.
func findLibcrypto() string {
	for _, pattern := range []string{"/usr/lib/*/libcrypto.so.3", "/usr/lib64/libcrypto.so.3", "/usr/lib/libcrypto.so.3", "/lib/*/libcrypto.so.3"} {
		files, _ := filepath.Glob(pattern) // the patterns are well-formed
		for _, file := range files {
			if b, err := os.ReadFile(file); err == nil {
				return fmt.Sprintf("%s (%s)", libcryptoVersion(b), file)
			}
		}
	}
	return "none"
}

var opensslVersion = regexp.MustCompile(`OpenSSL [0-9]+\.[0-9]+\.[0-9]+[a-z0-9.+~-]* [0-9]+ [A-Z][a-z]+ [0-9]{4}`)

func libcryptoVersion(library []byte) string {
	if v := opensslVersion.Find(library); v != nil {
		return string(bytes.TrimSpace(v))
	}
	return "unknown version"
}
