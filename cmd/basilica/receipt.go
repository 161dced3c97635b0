package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"basilica"
	"basilica/client"
)

func receiptCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "receipt", Short: "Check receipts of tasks", Args: arguments(cobra.NoArgs)}
	var miner string
	verify := withJSON(&cobra.Command{
		Use:     "verify FILE",
		Example: `  basilica receipt verify out/receipt.json --miner 5F…`,
		Short:   "Check a receipt's signatures and endorsement, offline",
		Long: `Checks, without any network, that the executor signed the receipt, that the miner's hotkey
endorsed that executor, and that the miner's hotkey signed the receipt too. Whether that
hotkey is a miner you know, you say with --miner.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			receipt, endorsement, err := client.OpenReceipt(args[0])
			if err != nil {
				return err
			}
			if miner != "" && endorsement.Miner != basilica.Hotkey(miner) {
				return basilica.E(basilica.Invalid, "RECEIPT_MINER", fmt.Sprintf("the receipt is signed by %s, not by %s", endorsement.Miner, miner), "do not trust this receipt")
			}
			v := struct {
				Verified bool             `json:"verified"`
				Miner    basilica.Hotkey  `json:"miner"`
				Receipt  basilica.Receipt `json:"receipt"`
			}{true, endorsement.Miner, receipt}
			return show(cmd, v, func(w io.Writer) error {
				code := "none"
				if receipt.ExitCode != nil {
					code = fmt.Sprint(*receipt.ExitCode)
				}
				_, err := fmt.Fprintf(w, "verified: task %s, %s, exit code %s, %s on executor %s of miner %s, %d inputs, %d outputs\n",
					receipt.Task, receipt.State, code, receipt.Ended.Sub(receipt.Started).Round(time.Millisecond), receipt.Executor, endorsement.Miner, len(receipt.Inputs), len(receipt.Outputs))
				return err
			})
		},
	})
	verify.Flags().StringVar(&miner, "miner", "", "hotkey (SS58) that must have signed")
	cmd.AddCommand(verify)
	return cmd
}
