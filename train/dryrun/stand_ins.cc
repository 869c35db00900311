// What the stand-ins for CANN do (stand_ins.py beside this file says which function does what). Compiled into one
// library with -DSOC="the name of the chip". The file STAND_INS_RECORD gets a line for each kernel that is launched.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#define C extern "C"
typedef uint64_t word;

namespace ge {
// MindSpore registers its error texts here while it loads.
struct StatusFactory {
  static StatusFactory *Instance();
  std::map<uint32_t, std::string> texts;
};
StatusFactory *StatusFactory::Instance() {
  static StatusFactory *only = new StatusFactory();
  return only;
}
}  // namespace ge

static void destroy(void *) {}
static void (*const operator_vtable[16])(void *) = {
    destroy, ::free, destroy, destroy, destroy, destroy, destroy, destroy,
    destroy, destroy, destroy, destroy, destroy, destroy, destroy, destroy};

C void *stub_operator(word *self) {
  self[0] = (word)operator_vtable;
  self[1] = self[2] = 0;
  return self;
}
C void *stub_words2(word *self) { self[0] = self[1] = 0; return self; }
C void *stub_words3(word *self) { self[0] = self[1] = self[2] = 0; return self; }
C void *stub_string(void *self) { return new (self) std::string(); }
C void *stub_self(void *self) { return self; }
C word stub_zero() { return 0; }
C word stub_failure() { return 0xFFFFFFFFu; }
// Handles differ, since MindSpore keeps some (streams) by their address. Never freed.
C void *stub_handle() { return calloc(8, 8); }
C int stub_write_handle(void **out) { if (out) *out = calloc(8, 8); return 0; }

// aclnnXGetWorkspaceSize(..., uint64_t *size, aclOpExecutor **executor) must give an executor (at level 3), but where
// these two are depends on X. They are the last arguments, and the addresses of two neighbouring zeros on the caller's
// stack: the first such pair among the integer arguments is taken (6 in registers, the others on the stack).
C int stub_find_executor(word *registers, word *stack) {
  word top = (word)stack + 0x8000, previous = 0;
  for (int i = 0; i < 40; i++) {
    word value = i < 6 ? registers[i] : stack[i - 6];
    bool place = value > (word)stack && value < top && value % 8 == 0 && *(word *)value == 0;
    if (place && previous && previous != value && llabs((int64_t)(previous - value)) <= 64) {
      *(void **)value = calloc(8, 8);
      return 0;
    }
    previous = place ? value : 0;
  }
  return 0;
}
asm(R"(
.globl stub_workspace
.type stub_workspace,@function
stub_workspace:
  leaq 8(%rsp), %rax
  subq $56, %rsp
  movq %rdi, (%rsp)
  movq %rsi, 8(%rsp)
  movq %rdx, 16(%rsp)
  movq %rcx, 24(%rsp)
  movq %r8, 32(%rsp)
  movq %r9, 40(%rsp)
  movq %rsp, %rdi
  movq %rax, %rsi
  call stub_find_executor
  addq $56, %rsp
  ret
)");

C const char *_ZNK2ge12AscendString9GetStringEv(void *) { return ""; }
C const char *aclrtGetSocName() { return SOC; }
C const char *aclGetRecentErrMsg() { return ""; }
C const char *acltdtGetDatasetName(void *) { return ""; }
// A thread of MindSpore waits here for the graph's prints and summaries: "the queue is empty".
C int acltdtReceiveTensor(void *, void *, int32_t) { usleep(100000); return 207013; }
// Some threads ask again and again for what the device reports: nothing.
C int aclrtProcessReport(int32_t) { usleep(100000); return 0; }
C const char *HcclGetErrorString(int) { return "stand-in"; }

C int aclrtGetDevice(int32_t *device) { *device = 0; return 0; }
C int aclrtGetDeviceCount(uint32_t *count) { *count = 8; return 0; }
C int aclrtGetRunMode(int32_t *mode) { *mode = 1; return 0; }
C int aclrtGetMemInfo(int, size_t *free_bytes, size_t *total) { *free_bytes = *total = 64ull << 30; return 0; }
C int aclrtDeviceGetStreamPriorityRange(int32_t *least, int32_t *greatest) { *least = *greatest = 0; return 0; }
C int aclrtEventElapsedTime(float *ms, void *, void *) { *ms = 0; return 0; }
C int aclrtQueryEventStatus(void *, int32_t *status) { *status = 1; return 0; }
C int aclrtStreamQuery(void *, int32_t *status) { *status = 0; return 0; }

// One line for each kernel that MindSpore launches (MS_SIMULATION_LEVEL=3): the name that CANN is asked for.
C int stub_launch(const char *name) {
  static FILE *log = getenv("STAND_INS_RECORD") ? fopen(getenv("STAND_INS_RECORD"), "a") : nullptr;
  if (log) {
    fprintf(log, "%s\n", name);
    fflush(log);
  }
  return 0;
}
// "Has CANN an operator of this name?" Yes; asked for each aclop kernel (from level 2 on).
C bool _ZN2ge15OperatorFactory9IsExistOpEPKc(const char *) { return true; }
C bool _ZN2ge15OperatorFactory9IsExistOpERKSs(const std::string &) { return true; }
C int aclopCompileAndExecute(const char *type) { return stub_launch((std::string("aclop ") + type).c_str()); }
C int aclopCompileAndExecuteV2(const char *type) { return stub_launch((std::string("aclop ") + type).c_str()); }
C int aclopExecuteV2(const char *type) { return stub_launch((std::string("aclop ") + type).c_str()); }

// Room of the host, never freed; pages that nobody touches cost nothing: the device's 64 GiB are asked for as a whole.
static int allocate(void **out, size_t size) {
  const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *room = mmap(nullptr, size ? size : 1, PROT_READ | PROT_WRITE, kind, -1, 0);
  *out = room == MAP_FAILED ? nullptr : room;
  return room == MAP_FAILED;
}
C int aclrtMalloc(void **out, size_t size, int) { return allocate(out, size); }
C int aclrtMallocAlign32(void **out, size_t size, int) { return allocate(out, size); }
C int aclrtMallocHost(void **out, size_t size) { return allocate(out, size); }
C int aclrtReserveMemAddress(void **out, size_t size, size_t, void *, uint64_t) { return allocate(out, size); }

// What comes from the device is zeros; a single byte is 1, since it is the condition of an `if`: its branch is to run.
C int aclrtMemcpy(void *to, size_t, const void *, size_t count, int kind) {
  const int device_to_host = 2;
  if (kind == device_to_host) {
    stub_launch("to the host");
    memset(to, count == 1, count);
  }
  return 0;
}
C int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t count, int kind, void *) {
  return aclrtMemcpy(to, room, from, count, kind);
}

// Bytes of CANN's data types by their numbers: float, float16, int8, int32, uint8, -, int16, uint16, uint32, int64,
// uint64, double, bool, string, -, -, complex64, complex128; bfloat16 is 27.
C size_t aclDataTypeSize(int type) {
  static const uint8_t sizes[] = {4, 2, 1, 4, 1, 0, 2, 2, 4, 8, 8, 8, 1, 0, 0, 0, 8, 16};
  if (type == 27) return 2;
  return type >= 0 && type < (int)sizeof sizes ? sizes[type] : 0;
}
