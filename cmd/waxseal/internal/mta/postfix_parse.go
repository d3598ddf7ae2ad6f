package mta

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
)

// maxLine bounds a line of a mail server's configuration. Postfix joins
// continuation lines, and long lists of networks are common.
const maxLine = 4 << 20

func eachLine(text []byte, do func(line string) error) error {
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		if err := do(lines.Text()); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return lines.Err()
}

// parseParameters reads "name = value" lines.
func parseParameters(text []byte) (map[string]string, error) {
	all := map[string]string{}
	err := eachLine(text, func(line string) error {
		name, value, ok := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return fmt.Errorf("%q is no \"name = value\"", line)
		}
		all[name] = strings.TrimSpace(value)
		return nil
	})
	return all, err
}

// parseServices reads the lines of postconf -M without their options: service,
// type, private, unpriv, chroot, wakeup, maxproc, command.
func parseServices(text []byte) ([]*service, error) {
	var all []*service
	err := eachLine(text, func(line string) error {
		f := strings.Fields(line)
		if len(f) < 8 {
			return fmt.Errorf("%q has %d columns, want 8", line, len(f))
		}
		all = append(all, &service{name: f[0], kind: f[1], unpriv: f[3] != "n", chrootColumn: f[4], command: f[7], options: map[string]string{}})
		return nil
	})
	return all, err
}

// parseOptions reads the lines "service/type/name = value" of postconf -P.
func parseOptions(text []byte, services []*service) error {
	return eachLine(text, func(line string) error {
		left, value, ok := strings.Cut(line, "=")
		left = strings.TrimSpace(left)
		i := strings.LastIndexByte(left, '/')
		if !ok || i < 0 || left[i+1:] == "" {
			return fmt.Errorf("%q is no \"service/type/name = value\"", line)
		}
		for _, s := range services {
			if s.String() == left[:i] {
				s.options[left[i+1:]] = strings.TrimSpace(value)
				return nil
			}
		}
		return fmt.Errorf("%q is about a service that is not in master.cf", line)
	})
}
