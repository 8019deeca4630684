// Reads the layers of a stage in Python's own memory.
//
// All of it is looked at in every call, so that nothing can be out of date. In Python the same
// takes longer than the kernels. Called with the lock of the interpreter held: what is borrowed
// here belongs to modules, which nothing changes until it is released.
#pragma once
#include <algorithm>
#include <initializer_list>

#include "api.h"
#include "host.h"

namespace attnblocks {

// A stage of a block, as its class has it. Packed by plain.py.
struct Plan {
  Object* name;  // Null where the block itself is the stage.
  Host::Class of;
  int64_t kind, count;  // Of the layers with weights.
  Object *linear[3], *activation, *norm, *gate;  // Names; null where there is no place for one.
};

// What was found of a stage.
struct Found {
  int64_t width, activation, gate;
  int count;  // Of tensors.
  Object* norm;  // Its members; null for none.
  Object* tensors[11];  // In the order of the structs of the kernels; null where absent.
};

class StageReader {
 public:
  StageReader(const Host& host, const Geometry& map) : h_(host), map_(map) {}

  bool read(const Plan& plan, Object* block, Found& found) const {
    Object* own = block;
    if (plan.name) {
      Object* stage = part(block, h_.modules, plan.name);
      if (!stage || type(stage) != plan.of.type || !has_own_forward(plan.of)) return false;
      own = members(stage);
      if (!own || !untouched(own)) return false;
    }
    found = Found{};
    Object** t = found.tensors;
    const bool line = plan.kind == kConvolution;
    for (int64_t i = 0; i < plan.count; ++i) {
      Object* layer = read_layer(own, plan.linear[i], line ? h_.conv1d : h_.conv2d);
      if (!layer || !read_form(layer, plan.kind, i == 0 ? &found.width : nullptr)) return false;
      Object** place = i == 0 ? t : t + 4 + 2 * i;
      if (!tensor(layer, h_.parameters, h_.weight, place[0]) || !place[0]) return false;
      if (!tensor(layer, h_.parameters, h_.bias, place[1])) return false;
    }
    if ((line || plan.kind == kPositions) && t[1]) return false;
    const int64_t last = line ? 2 : plan.count;  // As many last layers as the struct has, and one.
    found.count = static_cast<int>(4 + 2 * last + 1);
    if (!tensor(own, h_.buffers, h_.gain, t[found.count - 1])) return false;
    if (plan.activation && !read_function(own, plan.activation, found.activation)) return false;
    if (!read_function(own, plan.gate, found.gate)) return false;
    return !plan.norm || read_norm(own, plan.norm, found);
  }

  // Shapes, dtype and place of the tensors, and their addresses in the struct of the kernel.
  bool check(const Plan& plan, const Found& found, const void** addresses, int64_t& gains) const {
    const int64_t c = map_.channels, w = found.width;
    const bool line = plan.kind == kConvolution, plane = plan.kind == kPositions;
    for (int i = 0; i < found.count; ++i) {
      addresses[i] = nullptr;
      if (!found.tensors[i]) continue;
      Tensor t;
      if (h_.view(found.tensors[i], &t) != 0) {
        h_.clear();
        return false;
      }
      const int64_t count = dense(t);
      if (t.device != 1 || t.lanes != 1 || !t.data || count == 0) return false;
      if (t.type != (map_.bfloat16 ? 4 : 2) || t.bits != (map_.bfloat16 ? 16 : 32)) return false;
      bool fits;
      if (i == found.count - 1) {
        gains = count;
        fits = t.dimensions == 0 || (!plane && is(t, {c}));
      } else if (i == 0) {
        fits = line ? is(t, {1, 1, w}) : plane ? is(t, {1, 2, w, w}) : is(t, {w, c, 1, 1});
      } else if (i < 6) {
        fits = is(t, {plane ? 1 : w});
      } else {
        fits = i % 2 == 0 ? is(t, {c, w, 1, 1}) : is(t, {c});
      }
      if (!fits) return false;
      addresses[i] = static_cast<const char*>(t.data) + t.byte_offset;
    }
    return true;
  }

  // Whether a norm, if any, takes its running statistics alone, and its eps.
  bool at_rest(const Found& found, double& eps) const {
    eps = 0.0;
    if (!found.norm) return true;
    if (h_.item(found.norm, h_.training) != h_.no || !found.tensors[4]) return false;
    Object* value = h_.item(found.norm, h_.eps);
    eps = value ? h_.number(value) : -1.0;
    if (eps >= 0.0) return true;
    h_.clear();
    return false;
  }

  // (activation, gate, width, members of the norm or None, *tensors or None); new.
  Object* tuple(const Found& found) const {
    Object* all = h_.new_tuple(4 + found.count);
    if (!all) return nullptr;
    h_.put(all, 0, h_.new_integer(found.activation));
    h_.put(all, 1, h_.new_integer(found.gate));
    h_.put(all, 2, h_.new_integer(found.width));
    h_.put(all, 3, kept(found.norm));
    for (int i = 0; i < found.count; ++i) h_.put(all, 4 + i, kept(found.tensors[i]));
    return all;
  }

  void keep(const Found& found) const {
    for (int i = 0; i < found.count; ++i) kept(found.tensors[i]);
  }

  void drop(const Found& found) const {
    for (int i = 0; i < found.count; ++i) {
      h_.drop(found.tensors[i] ? found.tensors[i] : h_.none);
    }
  }

  // The object, or None; new.
  Object* kept(Object* object) const {
    if (!object) object = h_.none;
    h_.keep(object);
    return object;
  }

 private:
  Object* type(Object* object) const {
    Object* found = h_.type(object);
    h_.drop(found);  // An object keeps its class.
    return found;
  }

  Object* members(Object* object) const {
    Object* found = h_.members(object, nullptr);
    if (found) {
      h_.drop(found);  // An object keeps its members.
    } else {
      h_.clear();
    }
    return found;
  }

  // A module, parameter or buffer; null where there is none, or a plain attribute hides it.
  Object* part(Object* own, Object* group, Object* name) const {
    Object* all = h_.item(own, group);
    Object* found = all ? h_.item(all, name) : nullptr;
    return found && !h_.item(own, name) ? found : nullptr;
  }

  // A tensor of exactly that class, or null for None.
  bool tensor(Object* own, Object* group, Object* name, Object*& found) const {
    found = part(own, group, name);
    if (!found) return false;
    if (found == h_.none) {
      found = nullptr;
      return true;
    }
    Object* of = type(found);
    return of == h_.tensor || of == h_.parameter;
  }

  bool equal(Object* a, Object* b) const {
    if (!a || !b) return false;
    const int same = a == b ? 1 : h_.compare(a, b, 2 /* == */);
    if (same < 0) h_.clear();
    return same == 1;
  }

  // Whether a call of a module does nothing but its class's forward.
  bool untouched(Object* own) const {
    for (Object* name : h_.hooks) {
      Object* hooks = h_.item(own, name);
      if (!hooks) return false;
      const ptrdiff_t count = h_.size(hooks);
      if (count != 0) {
        if (count < 0) h_.clear();
        return false;
      }
    }
    for (Object* name : h_.replaced) {
      if (h_.item(own, name)) return false;
    }
    return true;
  }

  bool has_own_forward(const Host::Class& of) const {
    Object* forward = h_.attribute(of.type, h_.forward);
    if (!forward) {
      h_.clear();
      return false;
    }
    h_.drop(forward);
    return forward == of.forward;
  }

  // The members of a layer of that class; null where it is something else.
  Object* read_layer(Object* own, Object* name, const Host::Class& of) const {
    Object* layer = part(own, h_.modules, name);
    if (!layer || type(layer) != of.type || !has_own_forward(of)) return nullptr;
    Object* found = members(layer);
    return found && untouched(found) ? found : nullptr;
  }

  bool read_function(Object* own, Object* name, int64_t& number) const {
    Object* layer = part(own, h_.modules, name);
    if (!layer) return false;
    Object* of = type(layer);
    for (const Host::Class& known : h_.functions) {
      if (of != known.type) continue;
      number = &known - h_.functions;
      return read_layer(own, name, known) != nullptr;
    }
    return false;
  }

  // What a convolution can have otherwise beside the shape of its weight.
  bool read_form(Object* layer, int64_t kind, int64_t* width) const {
    Object *stride = h_.item(layer, h_.stride), *padding = h_.item(layer, h_.padding);
    const bool line = kind == kConvolution;
    if (!line && kind != kPositions) {
      return equal(stride, h_.ones) && equal(padding, h_.zeros) &&
             (!width || read_integer(h_.item(layer, h_.out_channels), *width));
    }
    Object* one = line ? h_.one : h_.ones;
    if (!equal(stride, one) || !equal(h_.item(layer, h_.dilation), one) || !padding ||
        !equal(h_.item(layer, h_.padding_mode), h_.zeros_mode)) {
      return false;
    }
    const ptrdiff_t dimensions = h_.length(padding);
    if (dimensions != (line ? 1 : 2)) {
      h_.clear();
      return false;
    }
    int64_t first, last;
    if (!read_integer(h_.element(padding, 0), first)) return false;
    if (!read_integer(h_.element(padding, dimensions - 1), last) || first != last) return false;
    *width = 2 * first + 1;
    return true;
  }

  bool read_integer(Object* object, int64_t& value) const {
    value = object ? h_.integer(object) : -1;
    if (value >= 0) return true;
    h_.clear();
    return false;
  }

  bool read_norm(Object* own, Object* name, Found& found) const {
    int64_t none;
    Object* layer = part(own, h_.modules, name);
    if (layer && type(layer) == h_.functions[0].type) return read_function(own, name, none);
    layer = read_layer(own, name, h_.norm);
    Object** t = found.tensors + 2;
    found.norm = layer;
    return layer && tensor(layer, h_.parameters, h_.weight, t[0]) &&
           tensor(layer, h_.parameters, h_.bias, t[1]) &&
           tensor(layer, h_.buffers, h_.running_mean, t[2]) &&
           tensor(layer, h_.buffers, h_.running_var, t[3]) && (!t[2] == !t[3]);
  }

  static bool is(const Tensor& t, std::initializer_list<int64_t> shape) {
    return t.dimensions == static_cast<int32_t>(shape.size()) &&
           std::equal(shape.begin(), shape.end(), t.shape);
  }

  // How many elements a tensor has; 0 where they do not lie one after the other.
  static int64_t dense(const Tensor& t) {
    int64_t count = 1;
    for (int32_t i = t.dimensions - 1; i >= 0; --i) {
      if (t.shape[i] != 1 && t.strides[i] != count) return 0;
      count *= t.shape[i];
    }
    return count;
  }

  const Host& h_;
  const Geometry& map_;
};

}  // namespace attnblocks
