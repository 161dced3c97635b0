package client

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"basilica"
)

// checkReceipt checks the task's receipt against all that the client knows itself: who the miner is, what was asked for,
// what was sent and what is named as output. Nil without an error: the task never reached an executor, so nobody owes one.
func (r *Result) checkReceipt(self basilica.Hotkey, spec basilica.TaskSpec, digest basilica.Digest) (*basilica.Receipt, error) {
	t := r.Task
	if t.Receipt == nil {
		if t.State == basilica.TaskSucceeded || t.State == basilica.TaskFailed && t.ExitCode != nil {
			return nil, wrongReceipt("RECEIPT_MISSING", "the task ended on an executor and no receipt came with it")
		}
		return nil, nil
	}
	receipt, endorsement, err := t.Receipt.Open()
	if err != nil {
		return nil, err
	}
	switch {
	case endorsement.Miner != r.Miner:
		return nil, wrongReceipt("RECEIPT_MINER", fmt.Sprintf("the receipt is signed by %s, the metagraph's miner is %s", endorsement.Miner, r.Miner))
	case receipt.Client != self:
		return nil, wrongReceipt("RECEIPT_CLIENT", fmt.Sprintf("the receipt was made for client %s", receipt.Client))
	case receipt.Task != t.ID:
		return nil, wrongReceipt("RECEIPT_TASK", fmt.Sprintf("the receipt is for task %.80q", receipt.Task))
	case receipt.SpecDigest != digest || receipt.Image != spec.Image:
		return nil, wrongReceipt("RECEIPT_SPEC", "the receipt is for another task description than the one that was submitted")
	case receipt.State != t.State || !sameExit(receipt.ExitCode, t.ExitCode):
		return nil, wrongReceipt("RECEIPT_STATE", fmt.Sprintf("the receipt says %s, the miner says %s", receipt.State, t.State))
	case !sameFiles(receipt.Inputs, spec.Inputs):
		return nil, wrongReceipt("RECEIPT_INPUTS", "the receipt names other inputs than those that were sent")
	case !sameFiles(receipt.Outputs, t.Outputs):
		return nil, wrongReceipt("RECEIPT_OUTPUTS", "the receipt names other outputs than the miner does")
	}
	return &receipt, nil
}

func wrongReceipt(code, sentence string) error {
	return basilica.E(basilica.Invalid, code, sentence, "do not trust this result; report it to the miner")
}

func sameExit(a, b *int) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// sameFiles compares two lists regardless of order.
func sameFiles(a, b []basilica.TaskFile) bool {
	byName := func(x, y basilica.TaskFile) int { return strings.Compare(x.Name, y.Name) }
	return slices.Equal(slices.SortedFunc(slices.Values(a), byName), slices.SortedFunc(slices.Values(b), byName))
}

const receiptName = "receipt.json"

// receiptPath is where the receipt goes; empty: nowhere.
func (r *Results) receiptPath() string {
	if r.ReceiptPath == "" && r.OutputDir != "" {
		return filepath.Join(r.OutputDir, receiptName)
	}
	return r.ReceiptPath
}

// saveReceipt writes the signed receipt where the request wants it and returns the path, empty where it wants none.
func saveReceipt(req Results, task basilica.Task) (string, error) {
	path := req.receiptPath()
	if path == "" {
		return "", nil
	}
	if req.ReceiptPath == "" && slices.ContainsFunc(task.Outputs, func(f basilica.TaskFile) bool { return strings.EqualFold(f.Name, receiptName) }) {
		return "", basilica.E(basilica.Conflict, "RECEIPT_NAME", "an output of the task is itself called "+receiptName, "say where the receipt goes with --receipt FILE")
	}
	text, err := json.MarshalIndent(task.Receipt, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode receipt: %w", err)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if req.Overwrite {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return "", existing(path, err)
	}
	if _, err := f.Write(append(text, '\n')); err != nil {
		f.Close()
		return "", fmt.Errorf("write receipt: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("write receipt: %w", err)
	}
	return path, nil
}

// OpenReceipt reads a receipt file and checks its signatures and its endorsement. Whose receipt it is, the caller judges.
func OpenReceipt(path string) (basilica.Receipt, basilica.Endorsement, error) {
	text, err := readCapped(path, maxReceiptBytes)
	if err != nil {
		return basilica.Receipt{}, basilica.Endorsement{}, basilica.E(basilica.Invalid, "RECEIPT_UNREADABLE", fmt.Sprintf("receipt file %s cannot be read", path), "give the path of a receipt that `basilica run` wrote").With(err)
	}
	return parseReceipt(text)
}

func parseReceipt(text []byte) (basilica.Receipt, basilica.Endorsement, error) {
	var signed basilica.SignedReceipt
	if err := json.Unmarshal(text, &signed); err != nil {
		return basilica.Receipt{}, basilica.Endorsement{}, basilica.E(basilica.Invalid, "RECEIPT_UNREADABLE", "this is not a receipt", "give the path of a receipt that `basilica run` wrote").With(err)
	}
	return signed.Open()
}
