// What the stand-ins for CANN do (stand_ins.py beside this file says which function does what). Compiled into one
// library with -DSOC="the name of the chip". The file STAND_INS_RECORD gets a line for each kernel that is launched.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
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

// One line for each kernel that MindSpore launches (MS_SIMULATION_LEVEL=3): the name that CANN is asked for; and one,
// "takes", for what a kernel is given: the numbers of CANN's data types, of a list of tensors those of all in it.
C int stub_launch(const char *name) {
  static FILE *log = getenv("STAND_INS_RECORD") ? fopen(getenv("STAND_INS_RECORD"), "a") : nullptr;
  if (log) {
    fprintf(log, "%s\n", name);
    fflush(log);
  }
  return 0;
}
static std::mutex of_types;
static std::map<const void *, std::string> types;
static void *typed(const std::string &type) {
  void *handle = calloc(8, 8);
  std::lock_guard<std::mutex> lock(of_types);
  types[handle] = type;
  return handle;
}
static std::string type_of(const void *handle) {
  std::lock_guard<std::mutex> lock(of_types);
  auto found = types.find(handle);
  return found == types.end() ? "" : " " + found->second;
}
C void *aclCreateTensor(const int64_t *, uint64_t, int type) { return typed(std::to_string(type)); }
C void *aclCreateTensorDesc(int type) { return typed(std::to_string(type)); }
C void *aclCreateTensorList(const void *const *tensors, uint64_t count) {
  std::string all;
  for (uint64_t i = 0; i < count; i++) {
    std::string type = type_of(tensors[i]);
    if (all.find(type) == std::string::npos) all += type;
  }
  return typed(all.empty() ? "-1" : all.substr(1));
}

// aclnnXGetWorkspaceSize(..., uint64_t *size, aclOpExecutor **executor) must give an executor (at level 3), but where
// these two are depends on X. They are the last arguments, and the addresses of two neighbouring zeros on the caller's
// stack: the first such pair among the integer arguments is taken (6 in registers, the others on the stack). Those
// before it that are handles of tensors are what the kernel takes.
C int stub_find_executor(word *registers, word *stack, const char *name) {
  word top = (word)stack + 0x8000, previous = 0;
  std::string takes = std::string("takes ") + name + " of";
  for (int i = 0; i < 40; i++) {
    word value = i < 6 ? registers[i] : stack[i - 6];
    takes += type_of((const void *)value);
    bool place = value > (word)stack && value < top && value % 8 == 0 && *(word *)value == 0;
    if (place && previous && previous != value && llabs((int64_t)(previous - value)) <= 64) {
      *(void **)value = calloc(8, 8);
      return stub_launch(takes.c_str());
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
  movq %r11, %rdx
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

// "Has CANN an operator of this name?" Yes; asked for each aclop kernel (from level 2 on).
C bool _ZN2ge15OperatorFactory9IsExistOpEPKc(const char *) { return true; }
C bool _ZN2ge15OperatorFactory9IsExistOpERKSs(const std::string &) { return true; }
typedef const void *const *handles;
C int stub_launch_operator(const char *type, int inputs, handles in, handles, int outputs, handles out) {
  std::string name = std::string("aclop ") + type, takes = "takes " + name + " of";
  for (int i = 0; i < inputs; i++) takes += type_of(in[i]);
  for (int i = 0; i < outputs; i++) takes += type_of(out[i]);
  stub_launch(takes.c_str());
  return stub_launch(name.c_str());
}

// Room of the host, never freed; pages that nobody touches cost nothing: the device's 64 GiB are asked for as a whole.
C int stub_allocate(void **out, size_t size) {
  const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *room = mmap(nullptr, size ? size : 1, PROT_READ | PROT_WRITE, kind, -1, 0);
  *out = room == MAP_FAILED ? nullptr : room;
  return room == MAP_FAILED;
}

// What comes from the device is zeros; a single byte is 1, since it is the condition of an `if`: its branch is to run.
C int stub_copy(void *to, size_t, const void *, size_t count, int kind) {
  const int device_to_host = 2;
  if (kind == device_to_host) {
    stub_launch("to the host");
    memset(to, count == 1, count);
  }
  return 0;
}

// Bytes of CANN's data types by their numbers: float, float16, int8, int32, uint8, -, int16, uint16, uint32, int64,
// uint64, double, bool, string, -, -, complex64, complex128; bfloat16 is 27.
C size_t aclDataTypeSize(int type) {
  static const uint8_t sizes[] = {4, 2, 1, 4, 1, 0, 2, 2, 4, 8, 8, 8, 1, 0, 0, 0, 8, 16};
  if (type == 27) return 2;
  return type >= 0 && type < (int)sizeof sizes ? sizes[type] : 0;
}
