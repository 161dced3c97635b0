package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"basilica"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Images without a registry", Args: arguments(cobra.NoArgs)}
	cmd.AddCommand(imageLoadCommand(), imageLsCommand())
	return cmd
}

func imageLoadCommand() *cobra.Command {
	var (
		at    clientFlags
		miner string
	)
	cmd := withJSON(&cobra.Command{
		Use:   "load FILE.tar",
		Short: "Send the tar file of an image to a miner",
		Long: `Checks a file of ` + "`docker save`" + `, sends it to a miner and prints the name under which ` + "`run`" + `
takes it. ` + "`run`" + ` then goes to a miner that has the image. The miner forgets it a day after its
last use. What broke off goes on where it stopped.`,
		Example: `  docker save app:1 -o app.tar
  basilica run $(basilica image load app.tar) -- ./app`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := at.open(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			loaded, err := c.LoadImage(cmd.Context(), args[0], basilica.Hotkey(miner))
			if err != nil {
				return err
			}
			return show(cmd, loaded, func(w io.Writer) error {
				fmt.Fprintf(cmd.ErrOrStderr(), "basilica: %s of %s is at miner %s\n", byteCount(loaded.Size), args[0], loaded.Miner)
				_, err := fmt.Fprintln(w, loaded.Image)
				return err
			})
		},
	})
	at.register(cmd)
	cmd.Flags().StringVar(&miner, "miner", "", "hotkey (SS58) of the miner; default: the best offer")
	return cmd
}

func imageLsCommand() *cobra.Command {
	var at clientFlags
	cmd := withJSON(&cobra.Command{
		Use:     "ls",
		Short:   "List the images that were loaded from here",
		Example: `  basilica image ls`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, _, err := at.openAnyone(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			images, err := c.Images()
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"images": images}, func(w io.Writer) error {
				rows := newTable(w, "IMAGE", "TAGS", "SIZE", "MINER", "LOADED")
				for _, i := range images {
					rows.AppendRow(line(i.Image, strings.Join(i.Tags, " "), byteCount(i.Size), i.Miner, i.Loaded.Local().Format(time.DateTime)))
				}
				rows.Render()
				return nil
			})
		},
	})
	at.register(cmd)
	return cmd
}
