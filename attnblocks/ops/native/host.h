// The few functions and objects of Python and torch that reading a block takes. Python passes their
// addresses, so that the library is built without either, and fits all their versions.
#pragma once
#include <cstddef>
#include <cstdint>

namespace attnblocks {

struct Object;  // A Python object.

// DLPack's view of a tensor; its layout is the same in all versions 1.
struct Tensor {
  void* data;
  int32_t device, device_index, dimensions;
  uint8_t type, bits;
  uint16_t lanes;
  const int64_t *shape, *strides;
  uint64_t byte_offset;
};

// Packed by host.py. References are borrowed unless it says otherwise.
struct Host {
  Object* (*item)(Object* dict, Object* key);  // Null where there is none.
  ptrdiff_t (*size)(Object* dict);
  Object* (*type)(Object*);  // New.
  Object* (*members)(Object*, void*);  // The __dict__; new.
  Object* (*attribute)(Object*, Object* name);  // New.
  int (*compare)(Object*, Object*, int);
  ptrdiff_t (*length)(Object* tuple);
  Object* (*element)(Object* tuple, ptrdiff_t);
  long long (*integer)(Object*);
  double (*number)(Object*);
  void (*clear)();  // Forgets an exception.
  void (*keep)(Object*);
  void (*drop)(Object*);
  Object* (*new_tuple)(ptrdiff_t);  // New.
  int (*put)(Object* tuple, ptrdiff_t, Object*);  // Takes the reference.
  Object* (*new_integer)(long long);  // New.
  void* (*release)();  // Lets other threads of Python run, ...
  void (*acquire)(void*);  // ... and waits for them.
  int (*view)(Object* tensor, Tensor*);  // 0 where it went well; null where torch has none.

  Object *none, *yes, *no, *one, *ones, *zeros, *zeros_mode;  // (1,), (1, 1), (0, 0), "zeros"
  Object *tensor, *parameter;
  // Classes that a layer may be of, each with its `forward`.
  struct Class {
    Object *type, *forward;
  };
  Class functions[7], conv1d, conv2d, norm;
  // Names
  Object *modules, *parameters, *buffers;
  Object *hooks[4], *replaced[6];
  Object *forward, *stride, *padding, *dilation, *padding_mode, *out_channels;
  Object *weight, *bias, *running_mean, *running_var, *training, *eps, *gain;
};

}  // namespace attnblocks
