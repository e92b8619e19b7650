#include "peers/onednn.hpp"

#include <omp.h>
#include <dnnl.hpp>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

namespace convrt::bench {
namespace {

using dnnl::algorithm;
using dnnl::memory;
using Forward = dnnl::convolution_forward;
using Tag = memory::format_tag;

// oneDNN takes its team size from OpenMP's setting, when a primitive is made and when it runs.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

struct Machine {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
};

Machine& machine() {
  static Machine m;
  return m;
}

Tag tag_of(Layout layout) { return layout == Layout::nhwc ? Tag::nhwc : Tag::nchw; }

memory::desc describe(const memory::dims& dims, Tag tag) { return {dims, memory::data_type::f32, tag}; }

// The primitive descriptor, or an empty one where oneDNN has no such implementation.
Forward::primitive_desc primitive(const Conv2dDesc& d, algorithm how, Tag tag) {
  const memory::desc src = describe({d.n, d.c, d.h, d.w}, tag), dst = describe({d.n, d.k, d.p(), d.q()}, tag);
  const memory::desc weights = d.groups == 1 ? describe({d.k, d.c, d.r, d.s}, Tag::any)
                                             : describe({d.groups, d.k / d.groups, d.c / d.groups, d.r, d.s}, Tag::any);
  const memory::dims strides = {d.stride_h, d.stride_w}, dilates = {d.dilation_h - 1, d.dilation_w - 1},
                     pad_begin = {d.pad_top, d.pad_left}, pad_end = {d.pad_bottom, d.pad_right};
  const dnnl::primitive_attr attributes;
  try {
#if DNNL_VERSION_MAJOR >= 3
    return {machine().engine,
            dnnl::prop_kind::forward_inference,
            how,
            src,
            weights,
            dst,
            strides,
            dilates,
            pad_begin,
            pad_end,
            attributes,
            true};
#else
    return {{dnnl::prop_kind::forward_inference, how, src, weights, dst, strides, dilates, pad_begin, pad_end},
            attributes,
            machine().engine,
            true};
#endif
  } catch (const dnnl::error& e) {
    if (e.status == dnnl_unimplemented) return {};
    throw;
  }
}

// A memory of our own allocation: as aligned, and on huge pages as large, as what convrt's tensors live in.
struct Tensor {
  explicit Tensor(const memory::desc& desc)
      : storage((desc.get_size() + sizeof(float) - 1) / sizeof(float)), mem(desc, machine().engine, storage.data()) {
    std::fill_n(storage.data(), storage.size(), 0.0F);
  }
  cpu::AlignedFloats storage;
  memory mem;
};

void reorder(const memory& from, const memory& to) {
  dnnl::reorder(from, to).execute(machine().stream, const_cast<memory&>(from), const_cast<memory&>(to));
  machine().stream.wait();
}

// A convolution with everything it needs; what is user's stays in the user's memory, the rest is private.
class Convolution {
 public:
  Convolution(Problem& problem, const Forward::primitive_desc& pd, Layout layout, bool timed_reorder, int threads)
      : threads_(threads), timed_reorder_(timed_reorder), conv_(pd), weights_(pd.weights_desc()) {
    const Conv2dDesc d = problem.desc(layout);
    dnnl::engine& engine = machine().engine;
    user_src_ =
        memory(describe({d.n, d.c, d.h, d.w}, tag_of(layout)), engine, const_cast<float*>(problem.src(layout).data()));
    user_dst_ = memory(describe({d.n, d.k, d.p(), d.q()}, tag_of(layout)), engine, problem.dst(layout).data());
    const memory::desc plain = d.groups == 1
                                   ? describe({d.k, d.c, d.r, d.s}, Tag::oihw)
                                   : describe({d.groups, d.k / d.groups, d.c / d.groups, d.r, d.s}, Tag::goihw);
    reorder(memory(plain, engine, const_cast<float*>(problem.weights().data())), weights_.mem);
    if (pd.src_desc() != user_src_.get_desc()) own_src_.emplace(pd.src_desc());
    if (pd.dst_desc() != user_dst_.get_desc()) own_dst_.emplace(pd.dst_desc());
    if (own_src_) {
      to_own_ = dnnl::reorder(user_src_, own_src_->mem);
      reorder(user_src_, own_src_->mem);
    }
    if (own_dst_) to_user_ = dnnl::reorder(own_dst_->mem, user_dst_);
    arguments_ = {{DNNL_ARG_SRC, own_src_ ? own_src_->mem : user_src_},
                  {DNNL_ARG_WEIGHTS, weights_.mem},
                  {DNNL_ARG_DST, own_dst_ ? own_dst_->mem : user_dst_}};
  }

  void run() {
    const ThreadCount count(threads_);
    dnnl::stream& stream = machine().stream;
    if (timed_reorder_ && own_src_) to_own_.execute(stream, user_src_, own_src_->mem);
    conv_.execute(stream, arguments_);
    if (timed_reorder_ && own_dst_) to_user_.execute(stream, own_dst_->mem, user_dst_);
    stream.wait();
  }

  void poison() {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    if (own_dst_) std::fill_n(own_dst_->storage.data(), own_dst_->storage.size(), nan);
    if (timed_reorder_ && own_src_) std::fill_n(own_src_->storage.data(), own_src_->storage.size(), nan);
  }

  void fetch() {
    if (own_dst_ && !timed_reorder_) reorder(own_dst_->mem, user_dst_);
  }

 private:
  int threads_;
  bool timed_reorder_;
  Forward conv_;
  Tensor weights_;
  memory user_src_, user_dst_;
  std::optional<Tensor> own_src_, own_dst_;
  dnnl::reorder to_own_, to_user_;
  std::unordered_map<int, memory> arguments_;
};

}  // namespace

std::string onednn_version() {
  const dnnl_version_t* v = dnnl_version();
  return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

std::vector<Contender> make_onednn(const std::shared_ptr<Problem>& problem, int threads) {
  struct Flavour {
    const char* name;
    algorithm how;
    Tag tag;
    Layout user;
    bool timed_reorder;
  };
  constexpr Flavour flavours[] = {{"onednn nchw", algorithm::convolution_direct, Tag::nchw, Layout::nchw, false},
                                  {"onednn reorder", algorithm::convolution_direct, Tag::any, Layout::nchw, true},
                                  {"onednn nhwc", algorithm::convolution_direct, Tag::nhwc, Layout::nhwc, false},
                                  {"onednn free", algorithm::convolution_direct, Tag::any, Layout::nhwc, false},
                                  {"onednn winograd", algorithm::convolution_winograd, Tag::any, Layout::nhwc, false}};
  const Conv2dDesc& d = problem->workload().desc;
  if (d.accumulate || d.activation.kind != ActivationKind::none) return {};
  const ThreadCount count(threads);
  std::vector<Contender> all;
  for (const Flavour& f : flavours) {
    const Forward::primitive_desc pd = primitive(d, f.how, f.tag);
    if (!pd) continue;
    const auto conv = std::make_shared<Convolution>(*problem, pd, f.user, f.timed_reorder, threads);
    Contender c;
    c.name = f.name;
    // The check reads its error bound from the name: that of F(4x4,3x3), the larger of the two tiles oneDNN has.
    c.kernel = std::string(f.how == algorithm::convolution_winograd ? "winograd_f4x4 " : "") + pd.impl_info_str();
    c.layout = f.user;
    c.threads = threads;
    c.peer = true;
    c.run = [conv, problem] { conv->run(); };
    c.poison = [conv] { conv->poison(); };
    c.fetch = [conv] { conv->fetch(); };
    all.push_back(std::move(c));
  }
  return all;
}

}  // namespace convrt::bench
