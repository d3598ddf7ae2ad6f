//go:build !linux

package landlock

import "fmt"

// ABI says that there is no Landlock.
func ABI() (int, error) { return 0, fmt.Errorf("%w but on Linux", ErrAbsent) }

// Exec does nothing but say so.
func Exec(Rules, string, []string, []string) error {
	_, err := ABI()
	return err
}
