package rest

import (
	"context"
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

// placeKey finds the network that a request comes from, in the request's context.
type placeKey struct{}

func placeOf(ctx context.Context) string {
	place, _ := ctx.Value(placeKey{}).(string)
	return place
}

// limited refuses what one network asks too fast.
func limited(cfg Config, next http.Handler) http.Handler {
	rates := gate.NewRates(cfg.PerSec, cfg.Burst, cfg.Now)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		place := gate.Network(r.RemoteAddr)
		if !rates.TakeN(place, cost(r)) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"error":{"kind":"exhausted","code":"RATE_LIMIT","sentence":"too many requests from this address","fix":"ask less often"}}` + "\n"))
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), placeKey{}, place)))
	})
}
