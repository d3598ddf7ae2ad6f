// Package rspamd reads what rspamd is told about DKIM signing, with the maps that
// belong to it, and says which keys rspamd signs a message with.
//
// It promises what rspamd 3.4 does; a test signs with that, and with what an
// import makes of these answers. Nothing here changes a file, runs Lua or asks a
// server: what depends on those is an error that names the line.
package rspamd
