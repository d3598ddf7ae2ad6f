//go:build !race

package keeper

// raceDetector makes large tests smaller.
const raceDetector = false
