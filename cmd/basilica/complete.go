package main

import (
	"slices"

	"github.com/spf13/cobra"

	"basilica/node"
)

const maxCompleted = 50

// completeTasks offers the latest own task ids to a shell, from the client's data directory alone.
func completeTasks(at *clientFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		cfg, _, err := at.load(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		at.apply(&cfg.Client)
		entries, err := node.OwnTasks(cfg.Client)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var ids []string
		for _, e := range slices.Backward(entries) {
			if len(ids) < maxCompleted {
				ids = append(ids, cobra.CompletionWithDesc(string(e.Task), e.Image))
			}
		}
		return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}
