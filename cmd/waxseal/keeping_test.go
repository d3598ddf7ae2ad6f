package main

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/keeper"
)

// countedStore counts the rounds that keepers begin.
type countedStore struct {
	keystore.Store
	rounds chan struct{}
}

func (s countedStore) List(context.Context, string, int) ([]string, error) {
	s.rounds <- struct{}{}
	return nil, nil
}

func TestTheKeeperFollowsReloads(t *testing.T) {
	store := countedStore{rounds: make(chan struct{}, 100)}
	var log strings.Builder
	k := &keeping{store: store, now: time.Now, by: "keeper@test", log: slog.New(slog.NewTextHandler(&log, nil))}
	config := func(text string) *decoded {
		t.Helper()
		d, err := decodeConfig("waxseal.toml", "[dns]\nresolvers = [\"127.0.0.1\"]\n[keeper]\ninterval = \"2s\"\n"+text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	k.use(config(""))
	<-store.rounds
	first := k.keeper
	k.use(config("[limits]\nheader_fields = 1000\n"))
	if k.keeper != first {
		t.Error("a change that does not concern the keeper replaced it")
	}
	k.use(config("grace = \"8d\"\n"))
	if k.keeper == first {
		t.Error("a change of the keeper's settings did not replace it")
	}
	<-store.rounds
	k.use(config("enabled = false\n"))
	if k.keeper != nil {
		t.Error("the keeper was switched off, and is there")
	}
	k.use(config("grace = \"8d\"\n"))
	<-store.rounds
	k.close()
	k.use(config(""))
	if k.keeper != nil || len(store.rounds) > 0 {
		t.Error("there is a keeper after the end")
	}
	if log.Len() > 0 {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestKeeperStatsGoOnAfterAReload(t *testing.T) {
	noon := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	was := keeper.Stats{Rounds: 3, Failures: 1, Steps: map[keystore.Action]uint64{keystore.Publish: 2}, Last: noon, Alarms: 4}
	got := sum(was, keeper.Stats{Steps: map[keystore.Action]uint64{keystore.Publish: 1, keystore.Create: 1}})
	if got.Rounds != 3 || got.Failures != 1 || got.Steps[keystore.Publish] != 3 || got.Steps[keystore.Create] != 1 || got.Alarms != 4 || got.Last != noon {
		t.Errorf("before the first round of the new keeper: %+v", got)
	}
	got = sum(was, keeper.Stats{Rounds: 1, Last: noon.Add(time.Hour), Alarms: 1})
	if got.Rounds != 4 || got.Alarms != 1 || got.Steps[keystore.Publish] != 2 {
		t.Errorf("after it: %+v", got)
	}
	if was.Steps[keystore.Publish] != 2 {
		t.Error("the old numbers were changed")
	}
}
