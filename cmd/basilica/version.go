package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"basilica/node"
)

func versionCommand() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:     "version",
		Example: `  basilica version --json`,
		Short:   "Say what this program was built from",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{node.Version(), runtime.Version()}
			return show(cmd, v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "basilica %s (%s)\n", v.Version, v.Go)
				return err
			})
		},
	})
}
