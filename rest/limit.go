package rest

import (
	"net/http"

	"basilica/internal/gate"
)

// limited refuses what one network asks too fast.
func limited(cfg Config, next http.Handler) http.Handler {
	rates := gate.NewRates(cfg.PerSec, cfg.Burst, cfg.Now)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !rates.Take(gate.Network(r.RemoteAddr)) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"error":{"kind":"exhausted","code":"RATE_LIMIT","sentence":"too many requests from this address","fix":"ask less often"}}` + "\n"))
			return
		}
		next.ServeHTTP(w, r)
	})
}
