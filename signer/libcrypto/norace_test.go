//go:build !race && linux && amd64 && !android && !nolibcrypto

package libcrypto

const raceDetector = false
