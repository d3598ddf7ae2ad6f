package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// trouble makes trouble for so long, and says what it was.
func (f *fleet) trouble(random *rand.Rand, length time.Duration) string {
	happened := map[string]int{}
	together := time.Now()
	for end := time.Now().Add(length); time.Now().Before(end); {
		wait(random, 2*time.Second)
		if time.Since(together) > mostApart {
			eventually(f.t, "all nodes sign with the same keys", f.together)
		}
		if f.together() {
			together = time.Now()
		}
		n := f.nodes[random.IntN(len(f.nodes))]
		what := troubles[random.IntN(len(troubles))]
		what.make(f, n, random)
		happened[what.name]++
	}
	var text []string
	for name, times := range happened {
		text = append(text, fmt.Sprintf("%s: %d", name, times))
	}
	slices.Sort(text)
	return strings.Join(text, ", ")
}

func wait(random *rand.Rand, most time.Duration) {
	time.Sleep(time.Duration(random.Int64N(int64(most))))
}

var troubles = []struct {
	name string
	make func(f *fleet, n *fleetNode, random *rand.Rand)
}{
	{"node killed", func(f *fleet, n *fleetNode, random *rand.Rand) {
		n.kill(f.t)
		wait(random, time.Second)
		n.start(f.t)
	}},
	{"store killed", func(f *fleet, n *fleetNode, random *rand.Rand) {
		f.store.kill()
		wait(random, mostTrouble)
		f.store.start(f.t)
	}},
	{"store killed, node killed meanwhile", func(f *fleet, n *fleetNode, random *rand.Rand) {
		f.store.kill()
		n.kill(f.t)
		n.start(f.t)
		wait(random, mostTrouble)
		f.store.start(f.t)
	}},
	{"store paused", func(f *fleet, n *fleetNode, random *rand.Rand) {
		f.store.pause()
		wait(random, mostTrouble)
		f.store.awake()
	}},
	{"node cut off", func(f *fleet, n *fleetNode, random *rand.Rand) {
		n.proxy.Delay(time.Minute) // what is sent does not arrive
		wait(random, mostTrouble)
		n.proxy.Delay(0)
		n.proxy.Drop()
	}},
	{"connection broken within a message", func(f *fleet, n *fleetNode, random *rand.Rand) {
		n.proxy.CutAfter(random.IntN(2000), random.IntN(2) == 0)
	}},
	{"all connections broken", func(f *fleet, n *fleetNode, random *rand.Rand) {
		for _, n := range f.nodes {
			n.proxy.Drop()
		}
	}},
}
