// What the headers of a newer glibc call and glibc 2.28 does not export, in its terms; see stubs.py.
// Hidden, so that no other library in the process finds these.
#define DR_HIDDEN extern "C" __attribute__((visibility("hidden")))

struct stat;
extern "C" int __xstat(int version, const char* path, struct stat* out);
extern "C" int __lxstat(int version, const char* path, struct stat* out);
extern "C" int __fxstat(int version, int file, struct stat* out);
extern "C" int __fxstatat(int version, int folder, const char* path, struct stat* out, int flags);

// glibc 2.32: whether there is one thread only, so that counters need no atomic operations. "No" is always
// right.
DR_HIDDEN char __libc_single_threaded;
char __libc_single_threaded = 0;

// glibc 2.33: exported under their own names. Before, the headers' stat() called these with the version of
// the struct, which is 1 on 64-bit x86.
constexpr int kStatVersion = 1;
DR_HIDDEN int stat(const char* path, struct stat* out) { return __xstat(kStatVersion, path, out); }
DR_HIDDEN int lstat(const char* path, struct stat* out) { return __lxstat(kStatVersion, path, out); }
DR_HIDDEN int fstat(int file, struct stat* out) { return __fxstat(kStatVersion, file, out); }
DR_HIDDEN int fstatat(int folder, const char* path, struct stat* out, int flags) {
  return __fxstatat(kStatVersion, folder, path, out, flags);
}

// glibc 2.38: C23's reading of numbers, which knows "0b", too. Nothing here gives it a base of 0 or 2.
extern "C" long strtol(const char* text, char** end, int base);
extern "C" unsigned long strtoul(const char* text, char** end, int base);
extern "C" long long strtoll(const char* text, char** end, int base);
extern "C" unsigned long long strtoull(const char* text, char** end, int base);
DR_HIDDEN long __isoc23_strtol(const char* text, char** end, int base) { return strtol(text, end, base); }
DR_HIDDEN unsigned long __isoc23_strtoul(const char* text, char** end, int base) {
  return strtoul(text, end, base);
}
DR_HIDDEN long long __isoc23_strtoll(const char* text, char** end, int base) {
  return strtoll(text, end, base);
}
DR_HIDDEN unsigned long long __isoc23_strtoull(const char* text, char** end, int base) {
  return strtoull(text, end, base);
}

// In every glibc a part of libc_nonshared.a: what is registered runs when this library is unloaded. nvcc's
// code calls it.
extern "C" int __cxa_atexit(void (*function)(void*), void* argument, void* library);
extern "C" __attribute__((visibility("hidden"))) void* __dso_handle;
DR_HIDDEN int atexit(void (*function)()) {
  return __cxa_atexit([](void* given) { reinterpret_cast<void (*)()>(given)(); },
                      reinterpret_cast<void*>(function), &__dso_handle);
}
