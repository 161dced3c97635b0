package main

import (
	"fmt"
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"basilica/node"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Write, check and show configuration files", Args: arguments(cobra.NoArgs)}
	cmd.AddCommand(configInitCommand(), configShowCommand(), withJSON(&cobra.Command{
		Use:     "check FILE",
		Example: `  basilica config check miner.toml`,
		Short:   "Read a configuration file as a role would, and say what is wrong",
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			sections, err := node.CheckConfig(args[0], os.Environ())
			if err != nil {
				return err
			}
			v := struct {
				File     string   `json:"file"`
				Sections []string `json:"sections"`
			}{args[0], sections}
			return show(cmd, v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: sections %v are good\n", v.File, v.Sections)
				return err
			})
		},
	}))
	return cmd
}

func configInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "init [SECTION…]",
		Short:   "Print a configuration file with every key, its default and what it is for",
		Example: "  basilica config init chain miner > miner.toml",
		Args:    arguments(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, sections []string) error {
			return node.WriteTemplate(cmd.OutOrStdout(), sections...)
		},
	}
}

func configShowCommand() *cobra.Command {
	var at commonFlags
	cmd := withJSON(&cobra.Command{
		Use:     "show [SECTION…]",
		Short:   "Show what holds, and whether it comes from the file, the environment or the default",
		Example: "  basilica config show --config miner.toml miner",
		Args:    arguments(cobra.ArbitraryArgs),
	})
	cmd.RunE = func(cmd *cobra.Command, sections []string) error {
		settings, err := node.Settings(at.config, os.Environ(), sections...)
		if err != nil {
			return err
		}
		return show(cmd, settings, func(w io.Writer) error {
			rows := newTable(w, "KEY", "VALUE", "FROM")
			for _, s := range settings {
				rows.AppendRow(table.Row{s.Key, s.Value, s.Source})
			}
			rows.Render()
			return nil
		})
	}
	at.register(cmd)
	return cmd
}
