package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/hubd-dev/hubd/internal/hub"
	"github.com/hubd-dev/hubd/internal/statesvc"
)

const stateUsage = `usage: hubd state check [--state DIR] [flags]            say whether the stored state is damaged, and where
       hubd state repair [--apply] [--state DIR] [flags]   say what a repair would drop; with --apply, do it

The hub that uses the state must be stopped. Nothing is written without --apply,
and what a repair drops stays in the state folder under a name that ends in .damaged.
Exit codes: 0 no damage, or repaired; 3 in use; 4 damaged; 5 the folder cannot be used.
`

// runState is "hubd state VERB". The state folder is the one that hubd with the
// same flags, variables and files would use.
func runState(args []string, stdout, stderr io.Writer) int {
	if asksForHelp(args) {
		fmt.Fprint(stdout, stateUsage)
		return hub.ExitOK
	}
	if len(args) == 0 || args[0] != "check" && args[0] != "repair" {
		fmt.Fprint(stderr, stateUsage)
		return hub.ExitUsage
	}
	verb, args := args[0], args[1:]
	apply := false
	if i := slices.Index(args, "--apply"); verb == "repair" && i >= 0 {
		apply = true
		args = slices.Delete(slices.Clone(args), i, i+1)
	}
	command, err := parse(args)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "hubd: %v\n%s", err, stateUsage)
		return hub.ExitUsage
	case command.help:
		fmt.Fprint(stdout, stateUsage)
		return hub.ExitOK
	}
	o, err := command.load()
	if err == nil && o.State == "" {
		o.State, err = hub.DefaultState()
	}
	if err != nil {
		return fail(stderr, err)
	}
	store := filepath.Join(o.State, hub.StoreFolder)
	report, err := statesvc.Repair(nil, store, apply)
	if err != nil {
		return fail(stderr, err)
	}
	if report.Damage == nil {
		fmt.Fprintf(stdout, "the state in %s is not damaged; its newest revision is %d\n", store, report.Revision)
		return hub.ExitOK
	}
	fmt.Fprintf(stderr, "hubd: %v\n", report.Damage)
	if report.Applied {
		fmt.Fprintf(stdout, "repaired: %s\n", remains(report))
		for _, name := range report.Kept {
			fmt.Fprintf(stdout, "kept: %s\n", name)
		}
		return hub.ExitOK
	}
	fmt.Fprintf(stdout, "nothing was written; after a repair: %s\n", remains(report))
	fmt.Fprintln(stderr, "hint: hubd state repair --apply repairs it, and keeps what it drops beside the store")
	return hub.ExitDamaged
}

// remains says in one line what a repair leaves and what it drops.
func remains(r *statesvc.RepairReport) string {
	kept := fmt.Sprintf("the state is that of revision %d", r.Revision)
	if r.Snapshot {
		kept += ", from a snapshot, without its history"
	}
	if r.Records == 0 && r.File == "" {
		return kept + "; no transaction is dropped"
	}
	dropped := fmt.Sprintf("%d later records can still be recognised", r.Records)
	if r.Records == 1 {
		dropped = "1 later record can still be recognised"
	}
	if r.File != "" {
		return fmt.Sprintf("%s; the damaged record and all behind it are dropped (%s; a record has one transaction or more)", kept, dropped)
	}
	return fmt.Sprintf("%s; the log is dropped (%s in it; a record has one transaction or more)", kept, dropped)
}
