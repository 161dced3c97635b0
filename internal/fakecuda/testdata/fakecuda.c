// A CUDA driver and an NVML for tests, of our own: devices are memory of this process, the kernels of GPOW1 are plain C, and any
// call can be told to fail. Behaviour is set by fake_set, or by the environment variable FAKECUDA when the library is loaded:
// words "key=value", separated by commas. Keys: devices, memory (bytes of each), held (bytes that others hold of each), driver
// (e.g. 12080), cc (e.g. 90), mig (0 or 1), seed (first byte of every UUID), fail (CALL:NTH:CODE, the NTH call from now fails),
// wrong (the kernels whose name begins with it leave the last byte or word of their output wrong).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint32_t u32;
typedef uint64_t u64;
typedef uint8_t u8;

#define MAX_DEVICES 16
static int devices = 1, driver = 12080, cc = 90, mig = 0, seed = 0xfa;
static u64 memory = 1ull << 30, held = 0, used[MAX_DEVICES];
static char fail_call[64], wrong[64];
static int fail_nth, fail_code, retained[MAX_DEVICES], lost;
static __thread int current = -1;

static void set_one(const char *key, const char *value) {
  if (!strcmp(key, "devices")) devices = atoi(value);
  else if (!strcmp(key, "memory")) memory = strtoull(value, 0, 10);
  else if (!strcmp(key, "held")) held = strtoull(value, 0, 10);
  else if (!strcmp(key, "driver")) driver = atoi(value);
  else if (!strcmp(key, "cc")) cc = atoi(value);
  else if (!strcmp(key, "mig")) mig = atoi(value);
  else if (!strcmp(key, "seed")) seed = atoi(value);
  else if (!strcmp(key, "wrong")) snprintf(wrong, sizeof wrong, "%s", value);
  else if (!strcmp(key, "fail")) { lost = 0; sscanf(value, "%63[^:]:%d:%d", fail_call, &fail_nth, &fail_code); }
}

void fake_set(const char *words) {
  char text[512], *rest = text;
  snprintf(text, sizeof text, "%s", words);
  for (char *w; (w = strsep(&rest, ",")) != NULL;) {
    char *eq = strchr(w, '=');
    if (eq) { *eq = 0; set_one(w, eq + 1); }
  }
}

__attribute__((constructor)) static void load(void) {
  const char *words = getenv("FAKECUDA");
  if (words) fake_set(words);
}

// fails says whether this call is to fail. A failure of a kernel or of the card stays, as it does on a real one.
static int fails(const char *call) {
  if (lost && !strncmp(call, "cu", 2)) return lost;
  if (!fail_nth || strcmp(call, fail_call) || __atomic_sub_fetch(&fail_nth, 1, __ATOMIC_SEQ_CST)) return 0;
  if (fail_code >= 700 && fail_code < 720) lost = fail_code;
  return fail_code;
}
#define CALL() do { int f = fails(__func__); if (f) return f; } while (0)
#define CONTEXT() do { CALL(); if (current < 0) return 201; } while (0)
#define DEVICE(d) do { CALL(); if ((d) < 0 || (d) >= devices) return 101; } while (0)

int cuInit(u32 flags) { (void)flags; CALL(); return devices ? 0 : 100; }
int cuDriverGetVersion(int *v) { CALL(); *v = driver; return 0; }
int cuGetErrorName(int code, const char **name) {
  static const struct { int code; const char *name; } names[] = {
    {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {3, "CUDA_ERROR_NOT_INITIALIZED"}, {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"}, {100, "CUDA_ERROR_NO_DEVICE"},
    {101, "CUDA_ERROR_INVALID_DEVICE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"}, {214, "CUDA_ERROR_ECC_UNCORRECTABLE"}, {218, "CUDA_ERROR_INVALID_PTX"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"}, {500, "CUDA_ERROR_NOT_FOUND"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {719, "CUDA_ERROR_LAUNCH_FAILED"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY"}, {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}, {999, "CUDA_ERROR_UNKNOWN"}};
  for (u32 i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].code == code) { *name = names[i].name; return 0; }
  return 1;
}
int cuDeviceGetCount(int *n) { CALL(); *n = devices; return 0; }
int cuDeviceGet(int *d, int i) { DEVICE(i); *d = i; return 0; }
int cuDeviceGetName(char *name, int len, int d) { DEVICE(d); snprintf(name, len, "Fake CUDA device"); return 0; }
int cuDeviceGetUuid_v2(u8 *uuid, int d) { DEVICE(d); for (int i = 0; i < 16; i++) uuid[i] = seed + i * 7 + d * 31; uuid[6] = 0x40 | (uuid[6] & 15); return 0; }
int cuDeviceTotalMem_v2(u64 *n, int d) { DEVICE(d); *n = memory; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { DEVICE(d); *v = a == 16 ? 4 : a == 75 ? cc / 10 : a == 76 ? cc % 10 : 0; return 0; }
int cuDeviceGetPCIBusId(char *id, int len, int d) { DEVICE(d); snprintf(id, len, "0000:%02X:00.0", 0x3b + d); return 0; }
int cuDevicePrimaryCtxRetain(void **ctx, int d) { DEVICE(d); retained[d]++; *ctx = (void *)(uintptr_t)(d + 1); return 0; }
int fake_retained(int d) { return retained[d]; }
u64 fake_used(int d) { return used[d]; }
int cuCtxSetCurrent(void *ctx) { CALL(); current = (int)(uintptr_t)ctx - 1; return 0; }
int cuCtxSynchronize(void) { CONTEXT(); return 0; }

// Memory: the size stands in front of every allocation, a guard behind it. What is left goes with the last use of the context.
struct piece { u64 bytes, device; struct piece *next, **link; };
static struct piece *pieces[MAX_DEVICES];
#define GUARD 0x5afe5afe5afe5afeull
int cuMemGetInfo_v2(u64 *free, u64 *total) { CONTEXT(); *total = memory; *free = memory - held - used[current]; return 0; }
int cuMemAlloc_v2(u64 *at, u64 n) {
  CONTEXT();
  if (!n) return 1;
  if (n > memory - held - used[current]) return 2;
  u8 *p = aligned_alloc(256, (n + 512 + 255) / 256 * 256);
  if (!p) return 2;
  struct piece *x = (struct piece *)p;
  *x = (struct piece){n, (u64)current, pieces[current], &pieces[current]};
  if (x->next) x->next->link = &x->next;
  pieces[current] = x;
  memset(p + 256, 0xa5, n); // what was there before is nobody's business
  u64 guard = GUARD; memcpy(p + 256 + n, &guard, 8);
  used[current] += n; *at = (u64)(uintptr_t)(p + 256);
  return 0;
}
static int drop(struct piece *x) {
  u64 guard;
  memcpy(&guard, (u8 *)x + 256 + x->bytes, 8);
  *x->link = x->next;
  if (x->next) x->next->link = x->link;
  used[x->device] -= x->bytes; free(x);
  return guard == GUARD ? 0 : 1;
}
int cuMemFree_v2(u64 at) {
  CONTEXT();
  struct piece *x = (struct piece *)((u8 *)(uintptr_t)at - 256);
  return x->device == (u64)current ? drop(x) : 1;
}
int cuDevicePrimaryCtxRelease_v2(int d) { // what it is told to fail at is done all the same: nothing is left behind
  int f = fails(__func__);
  if (d < 0 || d >= devices || !retained[d]) return 201;
  if (!--retained[d]) while (pieces[d]) drop(pieces[d]);
  return f;
}
int cuMemcpyHtoD_v2(u64 to, const void *from, u64 n) { CONTEXT(); memcpy((void *)(uintptr_t)to, from, n); return 0; }
int cuMemcpyDtoH_v2(void *to, u64 from, u64 n) { CONTEXT(); memcpy(to, (void *)(uintptr_t)from, n); return 0; }
int cuMemcpyDtoDAsync_v2(u64 to, u64 from, u64 n, void *stream) { CONTEXT(); if (stream) return 1; memmove((void *)(uintptr_t)to, (void *)(uintptr_t)from, n); return 0; }

static const char *kernels[] = {"prg_layer", "gemm_dp4a", "gemm_mma", "gemm_wgmma", "leaf_hash", "node_hash", "mix", "walk"};
int cuModuleLoadDataEx(void **m, const char *text, u32 n, void *keys, void *values) {
  (void)keys; (void)values;
  CONTEXT();
  if (n || !strstr(text, ".version") || !strstr(text, ".target")) return 218;
  *m = strdup(text);
  return 0;
}
int cuModuleUnload(void *m) { CONTEXT(); free(m); return 0; }
int cuModuleGetFunction(void **f, void *m, const char *name) {
  CONTEXT();
  char entry[80]; snprintf(entry, sizeof entry, ".entry %s(", name);
  for (u32 i = 0; i < sizeof kernels / sizeof *kernels; i++)
    if (!strcmp(name, kernels[i]) && strstr(m, entry)) { *f = (void *)kernels[i]; return 0; }
  return 500;
}

static u32 allowed; // dynamic shared memory of gemm_wgmma, above the 48 KiB that need no asking
int cuFuncSetAttribute(void *f, int attribute, int value) {
  CONTEXT();
  if (attribute != 8 || value > 227 << 10 || strcmp(f, "gemm_wgmma")) return 1;
  allowed = value;
  return 0;
}

// The kernels of gpu-proof.md sections 3 and 15.2, one thread after the other.
static u32 rotl(u32 x, int r) { return x << r | x >> (32 - r); }
static u32 fmix(u32 h) { h ^= h >> 16; h *= 0x85ebca6b; h ^= h >> 13; h *= 0xc2b2ae35; return h ^ h >> 16; }
static u32 scale(u32 w, u32 n) { return (u32)((u64)fmix(w) * n >> 32); }
static void prg(u32 *out, u64 words, u32 k0, u32 k1) { for (u64 i = 0; i < words; i++) out[i] = fmix(fmix(((u32)i * 0x9E3779B1u) ^ k0) + k1); }
static void gemm(u8 *buf, u32 l, u32 pi, u32 rk, u32 n) {
  u64 n2 = (u64)n * n;
  const int8_t *a = (int8_t *)buf + pi * n2, *b = (int8_t *)buf + (l - 1) * n2;
  for (u32 i = 0; i < n; i++)
    for (u32 j = 0; j < n; j++) {
      int32_t c = 0;
      for (u32 k = 0; k < n; k++) c += a[(u64)i * n + k] * b[(u64)j * n + k];
      u32 u = ((u32)c ^ (rk + i * 0x27D4EB2Fu + j * 0x165667B1u)) * 0x9E3779B1u;
      u ^= u >> 15;
      buf[l * n2 + (u64)i * n + j] = (u8)(u * 0x85EBCA77u >> 24);
    }
}
static void compress(u32 *h, const u8 *block) {
  static u32 k[64];
  if (!k[63]) // the first 32 bits of the fractional parts of the cube roots of the first 64 primes
    for (u32 i = 0, p = 2; i < 64; p++) {
      u32 d = 2;
      while (d * d <= p && p % d) d++;
      if (d * d <= p) continue;
      unsigned __int128 lo = 0, hi = (unsigned __int128)8 << 32; // largest x with x^3 <= p * 2^96
      while (hi - lo > 1) {
        unsigned __int128 m = (lo + hi) / 2, top = ((unsigned __int128)p << 96) / m;
        if (m <= top / m) lo = m; else hi = m;
      }
      k[i++] = (u32)lo;
    }
  u32 w[64], v[8];
  for (int i = 0; i < 16; i++) w[i] = (u32)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
  for (int i = 16; i < 64; i++)
    w[i] = w[i - 16] + w[i - 7] + (rotl(w[i - 15], 25) ^ rotl(w[i - 15], 14) ^ w[i - 15] >> 3) + (rotl(w[i - 2], 15) ^ rotl(w[i - 2], 13) ^ w[i - 2] >> 10);
  memcpy(v, h, sizeof v);
  for (int i = 0; i < 64; i++) {
    u32 s = v[7] + (rotl(v[4], 26) ^ rotl(v[4], 21) ^ rotl(v[4], 7)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
    u32 t = (rotl(v[0], 30) ^ rotl(v[0], 19) ^ rotl(v[0], 10)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
    memmove(v + 1, v, 28); v[4] += s; v[0] = s + t;
  }
  for (int i = 0; i < 8; i++) h[i] += v[i];
}
static void sha24(const u8 *data, u32 len, u8 *out) {
  u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  u8 text[640] = {0};
  u32 all = (len + 9 + 63) / 64 * 64;
  memcpy(text, data, len); text[len] = 0x80; text[all - 2] = (u8)(len * 8 >> 8); text[all - 1] = (u8)(len * 8);
  for (u32 i = 0; i < all; i += 64) compress(h, text + i);
  for (int i = 0; i < 24; i++) out[i] = (u8)(h[i / 4] >> (24 - i % 4 * 8));
}
static void leaf_hash(const u8 *base, u32 leaves, u32 log2, u32 tag, u8 *out) {
  for (u32 i = 0; i < leaves; i++) {
    u8 text[528]; u32 end[4] = {0x464c5342, tag + (i >> log2), i & ((1u << log2) - 1), 0};
    memcpy(text, base + (u64)i * 512, 512); memcpy(text + 512, end, 16);
    sha24(text, 528, out + (u64)i * 24);
  }
}
static void walk(const u8 *buf, u64 win, u32 blocks, u32 *state, u32 lanes, u32 steps, const u32 *bs, u32 first) {
  for (u32 lane = 0; lane < lanes; lane++) {
    u32 *s = state + lane * 8, o[8];
    for (int q = 0; q < 8; q++) s[q] = first ? fmix(bs[q] + lane * 0x9E3779B1u) : s[q] ^ bs[q];
    for (u32 t = 0; t < steps; t++) {
      const u32 *w = (u32 *)(buf + win + (u64)scale(s[0], blocks) * 128);
      for (int q = 0; q < 8; q++, w += 4) {
        s[q] = rotl((s[q] ^ w[0]) * 0x9E3779B1u, 13); s[q] = rotl((s[q] ^ w[1]) * 0x85EBCA77u, 11);
        s[q] = rotl((s[q] ^ w[2]) * 0xC2B2AE3Du, 17); s[q] = rotl((s[q] ^ w[3]) * 0x27D4EB2Fu, 19);
      }
      for (int m = 1; m < 8; m *= 2) {
        memcpy(o, s, sizeof o);
        for (int q = 0; q < 8; q++) s[q] = rotl(2 * o[q] + o[q ^ m], 7) * 0x9E3779B1u;
      }
    }
  }
}
static void mix(const u8 *buf, u64 win, u32 blocks, const u32 *in, u32 *out, u32 cells, u32 r) {
  for (u32 i = 0; i < cells; i++) {
    const u32 *a = in + (u64)i * 32, *b = in + (u64)scale(a[0], cells) * 32, *c = in + (u64)scale(a[1], cells) * 32;
    u32 x[32], o[32];
    for (int k = 0; k < 32; k++) x[k] = rotl((rotl((a[k] ^ b[k]) * 0x9E3779B1u, 13) ^ c[k]) * 0x85EBCA77u, 11) + i * 0x27D4EB2Fu + r * 0x165667B1u;
    for (int m = 1; m < 32; m *= 2) {
      memcpy(o, x, sizeof o);
      for (int k = 0; k < 32; k++) x[k] = rotl(2 * o[k] + o[k ^ m], 7) * 0x9E3779B1u;
    }
    const u32 *w = (u32 *)(buf + win + (blocks ? (u64)scale(x[0], blocks) * 128 : 0));
    for (int k = 0; k < 32; k++) out[(u64)i * 32 + k] = rotl((x[k] ^ (blocks ? w[k] : 0)) * 0xC2B2AE3Du, 17);
  }
}
#define P(i) (*(u8 **)args[i])
#define U(i) (*(u32 *)args[i])
#define L(i) (*(u64 *)args[i])
static int spoils(const char *name) { return *wrong && !strncmp(name, wrong, strlen(wrong)); }
// cuLaunchKernel also holds the launch against the table of section 15.2: too few threads leave work undone.
int cuLaunchKernel(void *f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, void *stream, void **args, void **extra) {
  CONTEXT();
  if (!gx || !gy || gz != 1 || !bx || by != 1 || bz != 1 || stream || extra || !args) return 1;
  u64 threads = (u64)gx * gy * bx;
  const char *name = f;
  if (shared > (strcmp(name, "gemm_wgmma") ? 0 : allowed)) return 1;
  if (!strcmp(name, "prg_layer")) prg((u32 *)P(0), L(1), U(2), U(3));
  else if (!strcmp(name, "gemm_dp4a") || !strcmp(name, "gemm_mma")) {
    u32 n = U(4), tile = strcmp(name, "gemm_mma") ? 16 : 128;
    if (gx != n / tile || gy != n / tile || n % tile || bx != 256) return 1;
    gemm(P(0), U(1), U(2), U(3), n);
    if (spoils(name)) P(0)[((u64)U(1) + 1) * n * n - 1] ^= 1;
  } else if (!strcmp(name, "gemm_wgmma")) {
    u32 n = U(4), tiles = n / 128 * (n / 256);
    if (gx > tiles || gy != 1 || n % 256 || bx != 384 || shared != 230464) return 1;
    gemm(P(0), U(1), U(2), U(3), n);
    if (spoils(name)) P(0)[((u64)U(1) + 1) * n * n - 1] ^= 1;
  } else if (!strcmp(name, "leaf_hash")) { if (threads < U(1)) return 1; leaf_hash(P(0), U(1), U(2), U(3), P(4)); }
  else if (!strcmp(name, "node_hash")) { if (threads < U(2)) return 1; for (u32 i = 0; i < U(2); i++) sha24(P(0) + (u64)i * 48, 48, P(1) + (u64)i * 24); }
  else if (!strcmp(name, "walk")) { if (threads != (u64)U(4) * 8 || bx % 32) return 1; walk(P(0), L(1), U(2), (u32 *)P(3), U(4), U(5), (u32 *)P(6), U(7)); }
  else if (!strcmp(name, "mix")) { if (threads != (u64)U(5) * 8 || bx % 32) return 1; mix(P(0), L(1), U(2), (u32 *)P(3), (u32 *)P(4), U(5), U(6)); if (spoils(name)) P(4)[(u64)U(5) * 128 - 1] ^= 1; }
  else return 98;
  return 0;
}

// NVML. A handle is the device's number plus one.
#define HANDLE(h) do { CALL(); if (!(h) || (u64)(uintptr_t)(h) > (u64)devices) return 2; } while (0)
#define AT(h) ((int)(uintptr_t)(h) - 1)
int nvmlInit_v2(void) { CALL(); return 0; }
int nvmlShutdown(void) { CALL(); return 0; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : code == 18 ? "Driver/library version mismatch" : "Unknown Error"; }
int nvmlSystemGetDriverVersion(char *v, u32 len) { CALL(); snprintf(v, len, "575.57.08"); return 0; }
int nvmlDeviceGetCount_v2(u32 *n) { CALL(); *n = devices; return 0; }
int nvmlDeviceGetHandleByIndex_v2(u32 i, void **h) { CALL(); if (i >= (u32)devices) return 2; *h = (void *)(uintptr_t)(i + 1); return 0; }
int nvmlDeviceGetUUID(void *h, char *text, u32 len) {
  HANDLE(h);
  u8 u[16]; char *end = text + len;
  for (int i = 0; i < 16; i++) u[i] = seed + i * 7 + AT(h) * 31;
  u[6] = 0x40 | (u[6] & 15);
  text += snprintf(text, end - text, "GPU-");
  for (int i = 0; i < 16; i++) text += snprintf(text, end - text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
  return 0;
}
int nvmlDeviceGetName(void *h, char *name, u32 len) { HANDLE(h); snprintf(name, len, "Fake CUDA device"); return 0; }
struct pci { char legacy[16]; u32 domain, bus, device, id, subsystem; char text[32]; };
int nvmlDeviceGetPciInfo_v3(void *h, struct pci *p) {
  HANDLE(h);
  memset(p, 0, sizeof *p);
  p->bus = 0x3b + AT(h); p->id = 0x233510de; p->subsystem = 0x18be10de;
  snprintf(p->legacy, 16, "0000:%02X:00.0", p->bus); snprintf(p->text, 32, "00000000:%02X:00.0", p->bus);
  return 0;
}
int nvmlDeviceGetSerial(void *h, char *text, u32 len) { HANDLE(h); snprintf(text, len, "13202230%05d", AT(h)); return 0; }
int nvmlDeviceGetMemoryInfo(void *h, u64 *m) { HANDLE(h); m[0] = memory; m[2] = held + used[AT(h)]; m[1] = m[0] - m[2]; return 0; }
int nvmlDeviceGetMigMode(void *h, u32 *now, u32 *pending) { HANDLE(h); if (cc < 80) return 3; *now = mig; *pending = mig; return 0; }
int nvmlDeviceGetBAR1MemoryInfo(void *h, u64 *m) { HANDLE(h); m[0] = 1ull << 28; m[2] = 0; m[1] = m[0]; return 0; }
int nvmlDeviceGetTotalEccErrors(void *h, u32 kind, u32 counter, u64 *n) { HANDLE(h); if (kind != 1 || counter) return 2; *n = 0; return 0; }
int nvmlDeviceGetMaxMigDeviceCount(void *h, u32 *n) { HANDLE(h); *n = mig ? 7 : 0; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, u32 i, void **m) { HANDLE(h); if (!mig || i > 1) return 6; *m = h; return 0; }
struct process { u32 pid; u64 bytes; u32 gpu_instance, compute_instance; };
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, u32 *n, struct process *p) {
  HANDLE(h);
  u32 room = *n, have = held ? 1 : 0;
  *n = have;
  if (have > room) return 7;
  if (have) *p = (struct process){4242, held, ~0u, ~0u};
  return 0;
}
int nvmlDeviceGetClockInfo(void *h, u32 kind, u32 *mhz) { HANDLE(h); *mhz = kind == 1 ? 1980 : kind == 2 ? 3201 : 345; return 0; }
int nvmlDeviceGetMaxClockInfo(void *h, u32 kind, u32 *mhz) { HANDLE(h); *mhz = kind == 1 ? 1980 : 3201; return 0; }
int nvmlDeviceGetPowerManagementLimit(void *h, u32 *mw) { HANDLE(h); *mw = 700000; return 0; }
