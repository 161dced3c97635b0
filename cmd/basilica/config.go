package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"basilica/node"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check configuration files", Args: arguments(cobra.NoArgs)}
	cmd.AddCommand(withJSON(&cobra.Command{
		Use:   "check FILE",
		Short: "Read a configuration file as a role would, and say what is wrong",
		Args:  arguments(cobra.ExactArgs(1)),
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
