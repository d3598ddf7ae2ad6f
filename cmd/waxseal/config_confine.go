package main

import "fmt"

// ConfineConfig is the [confine] table.
type ConfineConfig struct {
	// "auto": the daemon confines itself by Landlock, where the kernel has it.
	// From its start it can read, write, run and connect to nothing but what
	// this configuration names and every program needs; "waxseal check" lists
	// it. Commands that it runs are held to the same, and sudo, or the sendmail
	// command of Postfix, gain them no privileges. "require": where that is
	// impossible, it does not start. "off": nothing of this. Needs a restart.
	Landlock LandlockMode `toml:"landlock"`

	// Directories and files that may be read as well: such as where links in
	// the keystore lead to, or what commands read and run. Needs a restart.
	Read []string `toml:"read"`

	// Directories and files that may be changed as well, by commands. Needs a
	// restart.
	Write []string `toml:"write"`
}

// LandlockMode says whether the daemon confines itself.
type LandlockMode string

const (
	landlockAuto    LandlockMode = "auto"
	landlockRequire LandlockMode = "require"
	landlockOff     LandlockMode = "off"
)

func (m *LandlockMode) UnmarshalTOML(v any) error {
	const want = `"auto", "require" or "off"`
	s, err := text(v, want)
	if err != nil {
		return err
	}
	switch mode := LandlockMode(s); mode {
	case landlockAuto, landlockRequire, landlockOff:
		*m = mode
		return nil
	}
	return fmt.Errorf("%q: want %s", s, want)
}

func (m LandlockMode) String() string { return string(m) }

func defaultConfine() ConfineConfig {
	return ConfineConfig{Landlock: landlockAuto, Read: []string{}, Write: []string{}}
}
