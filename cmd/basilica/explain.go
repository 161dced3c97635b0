package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"basilica"
)

func explainCommand() *cobra.Command {
	cmd := withJSON(&cobra.Command{
		Use:   "explain [CODE]",
		Short: "Say what stands behind the code of a failure, and what to do",
		Example: `  basilica explain PORT_TAKEN
  basilica explain            # all codes, one line each`,
		Args: arguments(cobra.MaximumNArgs(1)),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var codes []string
			for _, x := range basilica.Codes() {
				codes = append(codes, x.Code+"\t"+x.Sentence)
			}
			return codes, cobra.ShellCompDirectiveNoFileComp
		},
	})
	markdown := cmd.Flags().Bool("markdown", false, "print the whole table as docs/errors.md holds it")
	cmd.Flags().Lookup("markdown").Hidden = true
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *markdown:
			return codesAsMarkdown(cmd.OutOrStdout())
		case len(args) == 0:
			return show(cmd, basilica.Codes(), func(w io.Writer) error {
				t := newTable(w, "CODE", "SENTENCE")
				for _, x := range basilica.Codes() {
					t.AppendRow(table.Row{x.Code, x.Sentence})
				}
				t.Render()
				return nil
			})
		}
		x, ok := basilica.Explain(args[0])
		if !ok && strings.Contains(args[0], ".") {
			return basilica.E(basilica.NotFound, "CODE_OF_THE_CHAIN", fmt.Sprintf("%.80q is a word of the chain, which explains it itself where it refuses", args[0]),
				"read the sentence and the Fix that came with it")
		}
		if !ok {
			near := basilica.NearestCode(args[0])
			return basilica.E(basilica.NotFound, "CODE_UNKNOWN", fmt.Sprintf("there is no code %.80q; the nearest is %s", args[0], near), "basilica explain "+near)
		}
		return show(cmd, x, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s: %s.\nCause: %s.\nFix: %s.\n", x.Code, upperFirst(x.Sentence), upperFirst(x.Cause), x.Fix)
			return err
		})
	}
	return cmd
}

func upperFirst(s string) string {
	r := []rune(s)
	r[0] = unicode.ToUpper(r[0])
	return string(r)
}

func codesAsMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Codes\n\nEvery failure that a person meets has a code, one sentence and the next step. This is the whole table; `basilica explain\n" +
		"CODE` prints one row of it. Codes with a dot (`SubtensorModule.NotEnoughStake`, `Pool.Payment`) are the chain's own words.\n" +
		"A code that ends with a phase or a number (`MALFORMED_WALK_DONE`, `ABORTED_3`) stands under its first word.\n\n" +
		"| code | sentence | cause | fix |\n|---|---|---|---|\n")
	for _, x := range basilica.Codes() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", x.Code, x.Sentence, x.Cause, x.Fix)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
