// Package opendkim reads the configuration of OpenDKIM, its tables included,
// and says what OpenDKIM does with a message under it.
//
// What it promises is what OpenDKIM 2.11 does, not what its manual says: which
// of several equal lines counts, which rows never match, and which it takes for
// something else than was meant. A test compares the model with the program.
// Nothing here changes a file or knows how this would be said otherwise.
package opendkim
