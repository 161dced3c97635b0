package rest

import (
	"net/http"
	"strconv"

	"basilica/internal/gate"
)

// rowsOfOne is how many rows an answer may hold for the price of one request.
const rowsOfOne = 25

// cost is how many requests this one counts for, by the rows that it may bring.
func cost(r *http.Request) int {
	switch r.URL.Path {
	case "/api/v1/miners", "/api/v1/executors":
		return 500 / rowsOfOne
	}
	rows, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		return 1 // the default page, or no list
	}
	return max(1, min(rows, 500)/rowsOfOne)
}

// limited refuses what one network asks too fast.
func limited(cfg Config, next http.Handler) http.Handler {
	rates := gate.NewRates(cfg.PerSec, cfg.Burst, cfg.Now)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !rates.TakeN(gate.Network(r.RemoteAddr), cost(r)) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"error":{"kind":"exhausted","code":"RATE_LIMIT","sentence":"too many requests from this address","fix":"ask less often"}}` + "\n"))
			return
		}
		next.ServeHTTP(w, r)
	})
}
