package node

import "basilica/admin"

// MinerAdmin speaks to the miner with that configuration over the socket in its data directory.
func MinerAdmin(cfg MinerConfig) (*admin.Client, error) {
	dir, err := expandHome(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	return admin.NewClient(dir), nil
}
