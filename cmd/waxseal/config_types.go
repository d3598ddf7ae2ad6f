package main

import (
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"waxseal/milter"
	"waxseal/signer"
	"waxseal/signer/libcrypto"
)

// The types of configuration values. Each takes exactly one kind of TOML value,
// as the library by itself would let a bare 30 pass for 30 nanoseconds.

// Duration is a time span: a number and a unit, such as "90s", "1h30m" or "7d".
type Duration time.Duration

func (d *Duration) UnmarshalTOML(v any) error {
	s, err := text(v, `a time span in quotes, such as "30s", "5m" or "7d"`)
	if err != nil {
		return err
	}
	span, err := parseDuration(s)
	if err != nil {
		return err
	}
	*d = Duration(span)
	return nil
}

// parseDuration adds days and weeks to time.ParseDuration.
func parseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf(`time span %q: want a number and a unit, such as "30s", "5m", "1h30m", "7d" or "2w"`, s)
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseFloat(number, 64)
			if err != nil || !(n >= 0 && n*float64(length) < math.MaxInt64) {
				return 0, bad
			}
			return time.Duration(n * float64(length)), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, bad
	}
	return d, nil
}

func (d Duration) String() string {
	const day = 24 * time.Hour
	if t := time.Duration(d); t >= day && t%day == 0 {
		return fmt.Sprintf("%dd", t/day)
	}
	s := time.Duration(d).String()
	for _, zero := range []string{"m0s", "h0m"} { // 1m0s, 1h0m
		if short, ok := strings.CutSuffix(s, zero); ok {
			s = short + zero[:1]
		}
	}
	return s
}

// Size is a number of bytes: a number, or one with the unit "KiB", "MiB" or "GiB".
type Size int

func (n *Size) UnmarshalTOML(v any) error {
	const want = `a size, such as 65536, "64KiB" or "1MiB"`
	if i, ok := v.(int64); ok {
		v = strconv.FormatInt(i, 10)
	}
	s, err := text(v, want)
	if err != nil {
		return err
	}
	number, shift := s, 0
	for unit, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if before, ok := strings.CutSuffix(s, unit); ok {
			number, shift = strings.TrimSpace(before), bits
		}
	}
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i > math.MaxInt>>shift {
		return fmt.Errorf("size %q: want %s", s, want)
	}
	*n = Size(i << shift)
	return nil
}

func (n Size) String() string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%dGiB", n>>30)
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return strconv.Itoa(int(n))
}

// FileMode is an octal file mode in quotes.
type FileMode fs.FileMode

func (m *FileMode) UnmarshalTOML(v any) error {
	s, err := text(v, `an octal mode in quotes, such as "0660"`)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return fmt.Errorf(`mode %q: want an octal mode, such as "0660"`, s)
	}
	*m = FileMode(n)
	return nil
}

func (m FileMode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// Address is where to listen. In a file it may be empty.
type Address struct {
	milter.Address
	given string
}

func (a *Address) UnmarshalTOML(v any) error {
	s, err := text(v, `an address in quotes, such as "unix:/run/waxseal/milter.sock"`)
	if err != nil {
		return err
	}
	if s == "" {
		*a = Address{}
		return nil
	}
	return a.set(s)
}

func (a *Address) set(s string) error {
	address, err := milter.ParseAddress(s)
	if err != nil {
		return err
	}
	*a = Address{address, s}
	return nil
}

func (a Address) String() string { return a.given }

// Canonicalization is the pair of c=, such as "relaxed/relaxed".
type Canonicalization struct{ header, body signer.Canonicalization }

func (c *Canonicalization) UnmarshalTOML(v any) error {
	s, err := text(v, `"relaxed/relaxed" or another pair`)
	if err != nil {
		return err
	}
	c.header, c.body, err = signer.ParseCanonicalization(s)
	return err
}

func (c Canonicalization) String() string { return c.header.String() + "/" + c.body.String() }

// RSAMode is what makes RSA signatures.
type RSAMode libcrypto.Mode

func (m *RSAMode) UnmarshalTOML(v any) error {
	s, err := text(v, `"auto", "go" or "libcrypto"`)
	if err != nil {
		return err
	}
	mode, err := libcrypto.ParseMode(s)
	*m = RSAMode(mode)
	return err
}

func (m RSAMode) String() string { return libcrypto.Mode(m).String() }

// LogLevel is the least level that is logged.
type LogLevel slog.Level

func (l *LogLevel) UnmarshalTOML(v any) error {
	s, err := text(v, `"debug", "info", "warn" or "error"`)
	if err != nil {
		return err
	}
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if s == strings.ToLower(level.String()) {
			*l = LogLevel(level)
			return nil
		}
	}
	return fmt.Errorf(`log level %q: want "debug", "info", "warn" or "error"`, s)
}

func (l LogLevel) String() string { return strings.ToLower(slog.Level(l).String()) }

// LogFormat is false for text and true for JSON.
type LogFormat bool

func (f *LogFormat) UnmarshalTOML(v any) error {
	s, err := text(v, `"text" or "json"`)
	if err != nil {
		return err
	}
	if s != "text" && s != "json" {
		return fmt.Errorf(`log format %q: want "text" or "json"`, s)
	}
	*f = s == "json"
	return nil
}

func (f LogFormat) String() string {
	if f {
		return "json"
	}
	return "text"
}

// text returns a TOML string, or says what was wanted instead.
func text(v any, want string) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("%v is not %s", v, want)
	}
	return s, nil
}
