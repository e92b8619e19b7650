// Every step in which ranks need each other is a set of non-blocking MPI calls, tested until a deadline. All memory
// that MPI may touch belongs to State, which outlives the plan where MPI may not be done with it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <numeric>
#include <string>
#include <thread>
#include <utility>

#include "convrt/mpi.hpp"
#include "core/even_out.hpp"
#include "core/fail.hpp"
#include "core/overlap.hpp"

namespace convrt {
namespace {

using Clock = std::chrono::steady_clock;
using core::fail;

constexpr int kTag = 1;                            // the communicator is ours alone
constexpr std::size_t kLargestMessage = 1U << 28;  // floats; MPI counts are int

double milliseconds(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

// What `work` throws, for the other ranks to hear of it first.
template <class Work>
std::optional<Error> attempt(const Work& work) {
  try {
    work();
  } catch (const Error& e) {
    return e;
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::out_of_memory, "DistributedPlan: host memory ran out");
  } catch (const std::exception& e) {
    return Error(ErrorCode::internal, e.what());
  }
  return std::nullopt;
}

// Images of each rank in proportion to `shares`, of which one at least is above 0.
std::vector<int> apportion(int images, std::span<const double> shares) {
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  std::vector<int> counts;
  double reached = 0;
  int begin = 0;
  for (const double share : shares) {
    reached += share;  // the same sum as total's, so the last share reaches exactly all
    const int end = static_cast<int>(std::lround(reached / total * images));
    counts.push_back(end - begin);
    begin = end;
  }
  return counts;
}

void expect_initialised() {
  int initialised = 0, finalised = 0;
  MPI_Initialized(&initialised);
  MPI_Finalized(&finalised);
  if (initialised == 0 || finalised != 0)
    fail(ErrorCode::invalid_argument, "convrt::mpi: expected MPI to be initialised, found it ",
         finalised != 0 ? "finalised already" : "not initialised", "; call MPI_Init first and MPI_Finalize last");
}

}  // namespace

struct DistributedPlan::State {
  State(const Device& on, const Conv2dDesc& problem, const DistributedOptions& wishes)
      : device(on), desc(problem), options(wishes) {
    options.plan.batch_invariant = true;  // for the bits to be those of one process, however the images are dealt out
  }

  void connect(MPI_Comm parent);
  void prepare(std::span<const float> given_weights, std::span<const float> given_bias);
  void share_out();

  // Waits for `requests`; a deadline passed or a failure of MPI ends the plan.
  void wait(const char* what);
  // Puts what an MPI call that started a request said to the test.
  void check(int mpi_code, const char* what);
  [[noreturn]] void give_up(ErrorCode code, const std::string& message);
  void expect_usable() const;

  // Every rank brings its error, if any; where there is one, every rank throws.
  void agree(const std::optional<Error>& mine);

  void broadcast(void* data, std::size_t count, std::size_t element, MPI_Datatype type, int root);
  void send(std::span<const float> from, int to);
  void receive(std::span<float> into, int from);

  Conv2dDesc part(int of) const;
  RunStats compute(std::span<const float> src, std::span<float> dst) const;
  RunStats run(std::span<const float> src, std::span<float> dst);
  RunStats run_local(std::span<const float> src, std::span<float> dst);

  Device device;
  Conv2dDesc desc;
  DistributedOptions options;
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, ranks = 1;
  std::vector<int> images;
  std::optional<Conv2dPlan> base, local;  // of about a rank's images; of this rank's, where there are any
  std::optional<Error> ended;             // why the communicator is of no use any more

  // In MPI's hands while requests are under way.
  std::vector<MPI_Request> requests;
  struct Status {
    int code, rank;
  } mine = {}, worst = {};
  std::array<char, 1024> text = {};
  std::vector<float> weights, bias, src, dst;  // src, dst: rank 0: of all other ranks; others: their own
  std::size_t bias_size = 0;
  // What a rank says of itself: its share, and which product its GPU is (core::even_out). All of it doubles, for MPI.
  struct Speed {
    double share = 0, product = 0;
  } my_speed;
  std::vector<Speed> speeds;
};

void DistributedPlan::State::give_up(ErrorCode code, const std::string& message) {
  ended = Error(code, message);
  throw Error(*ended);
}

void DistributedPlan::State::expect_usable() const {
  if (ended) throw Error(*ended);
}

void DistributedPlan::State::check(int mpi_code, const char* what) {
  if (mpi_code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING + 1> said = {};
  int length = 0;
  MPI_Error_string(mpi_code, said.data(), &length);
  give_up(ErrorCode::device_lost, std::string("DistributedPlan on rank ") + std::to_string(rank) +
                                      ": MPI failed while " + what + ": " + said.data() +
                                      "; the communicator is of no use any more: save what matters, then MPI_Abort");
}

void DistributedPlan::State::wait(const char* what) {
  const auto deadline = Clock::now() + options.timeout;
  // Short waits spin; long ones leave the core to whoever computes.
  for (int turn = 0;; ++turn) {
    int done = 0;
    const int code = MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (code == MPI_ERR_IN_STATUS) check(MPI_ERR_OTHER, what);
    check(code, what);
    if (done != 0) break;
    if (Clock::now() >= deadline)
      give_up(ErrorCode::timeout,
              "DistributedPlan on rank " + std::to_string(rank) + " of " + std::to_string(ranks) +
                  ": expected the other ranks within " + std::to_string(options.timeout.count()) +
                  " ms, found one silent while " + what +
                  "; every rank must make the same calls in the same order; the communicator is of no use any more: "
                  "save what matters, then MPI_Abort, or give a longer DistributedOptions::timeout");
    if (turn > 100) std::this_thread::sleep_for(std::chrono::microseconds(turn > 1000 ? 200 : 20));
  }
  requests.clear();
}

void DistributedPlan::State::agree(const std::optional<Error>& error) {
  mine = {error ? static_cast<int>(error->code()) + 1 : 0, rank};
  check(MPI_Iallreduce(&mine, &worst, 1, MPI_2INT, MPI_MAXLOC, comm, &requests.emplace_back()), "agreeing");
  wait("agreeing on how it went");
  if (worst.code == 0) return;
  const Status failed = worst;
  if (failed.rank == rank && error) {
    text = {};
    std::strncpy(text.data(), error->what(), text.size() - 1);
  }
  broadcast(text.data(), text.size(), 1, MPI_CHAR, failed.rank);
  wait("telling an error");
  if (error) throw Error(*error);
  fail(static_cast<ErrorCode>(failed.code - 1), "on rank ", failed.rank, ": ", text.data());
}

void DistributedPlan::State::broadcast(void* data, std::size_t count, std::size_t element, MPI_Datatype type,
                                       int root) {
  for (std::size_t done = 0; done < count; done += kLargestMessage)
    check(
        MPI_Ibcast(static_cast<char*>(data) + done * element, static_cast<int>(std::min(kLargestMessage, count - done)),
                   type, root, comm, &requests.emplace_back()),
        "broadcasting");
}

void DistributedPlan::State::send(std::span<const float> from, int to) {
  for (; !from.empty(); from = from.subspan(std::min(kLargestMessage, from.size())))
    check(MPI_Isend(from.data(), static_cast<int>(std::min(kLargestMessage, from.size())), MPI_FLOAT, to, kTag, comm,
                    &requests.emplace_back()),
          "sending images");
}

void DistributedPlan::State::receive(std::span<float> into, int from) {
  for (; !into.empty(); into = into.subspan(std::min(kLargestMessage, into.size())))
    check(MPI_Irecv(into.data(), static_cast<int>(std::min(kLargestMessage, into.size())), MPI_FLOAT, from, kTag, comm,
                    &requests.emplace_back()),
          "receiving images");
}

void DistributedPlan::State::connect(MPI_Comm parent) {
  expect_initialised();
  if (parent == MPI_COMM_NULL)
    fail(ErrorCode::invalid_argument,
         "DistributedPlan: expected a communicator, found MPI_COMM_NULL; "
         "MPI_COMM_WORLD is the one of all ranks");
  int inter = 0;
  MPI_Comm_test_inter(parent, &inter);
  if (inter != 0)
    fail(ErrorCode::invalid_argument,
         "DistributedPlan: expected an intracommunicator, found an intercommunicator; MPI_Intercomm_merge makes one");
  MPI_Comm_rank(parent, &rank);
  MPI_Comm_size(parent, &ranks);
  // A timeout that nobody could wait for is reported once the ranks can hear of it.
  const std::chrono::milliseconds given = options.timeout;
  if (given.count() <= 0) options.timeout = std::chrono::seconds(60);
  check(MPI_Comm_idup(parent, &comm, &requests.emplace_back()), "duplicating the communicator");
  wait("duplicating the communicator");
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  agree(attempt([&] {
    if (given.count() <= 0)
      fail(ErrorCode::invalid_argument, "DistributedOptions::timeout: expected more than 0 ms, found ", given.count());
    if (options.share && !(std::isfinite(*options.share) && *options.share >= 0))
      fail(ErrorCode::invalid_argument, "DistributedOptions::share: expected a finite number of at least 0, found ",
           *options.share);
  }));
}

void DistributedPlan::State::prepare(std::span<const float> given_weights, std::span<const float> given_bias) {
  // Rank 0's plan first: what is wrong with it is wrong for all, and its kernel, the one for about what a rank gets, is
  // everybody's.
  Conv2dDesc share = desc;
  share.n = static_cast<int>((std::int64_t{desc.n} + ranks - 1) / ranks);
  agree(attempt([&] {
    desc.validate();
    if (rank != 0 && !(given_weights.empty() && given_bias.empty()))
      fail(ErrorCode::invalid_argument, "DistributedPlan: expected weights and bias on rank 0 alone, found ",
           given_weights.size(), " weights and ", given_bias.size(), " biases on rank ", rank,
           "; pass empty spans there: rank 0 sends its own");
    if (rank == 0) base.emplace(device, share, given_weights, given_bias, options.plan);
    const std::string problem = desc.str();
    if (rank == 0) std::strncpy(text.data(), problem.c_str(), text.size() - 1);
  }));
  bias_size = given_bias.size();
  broadcast(text.data(), text.size(), 1, MPI_CHAR, 0);
  broadcast(&bias_size, sizeof bias_size, 1, MPI_BYTE, 0);
  wait("comparing descriptors");
  agree(attempt([&] {
    if (desc.str() != text.data())
      fail(ErrorCode::invalid_argument, "DistributedPlan: expected the descriptor of rank 0 on every rank, ",
           text.data(), ", found ", desc.str(), " on rank ", rank);
    weights.assign(given_weights.begin(), given_weights.end());
    bias.assign(given_bias.begin(), given_bias.end());
    weights.resize(desc.weights_size());
    bias.resize(bias_size);
  }));

  text = {};
  if (base) std::strncpy(text.data(), base->kernel().c_str(), text.size() - 1);
  broadcast(text.data(), text.size(), 1, MPI_CHAR, 0);
  broadcast(weights.data(), weights.size(), sizeof(float), MPI_FLOAT, 0);
  broadcast(bias.data(), bias.size(), sizeof(float), MPI_FLOAT, 0);
  wait("broadcasting weights");
  agree(attempt([&] {
    if (rank == 0) return;
    PlanOptions wishes = options.plan;
    if (wishes.kernel.empty()) {
      const std::vector<std::string> kernels = device.kernels(share);
      if (std::find(kernels.begin(), kernels.end(), text.data()) != kernels.end()) wishes.kernel = text.data();
    }
    base.emplace(device, share, weights, bias, wishes);
  }));
  weights = {};
  bias = {};
}

void DistributedPlan::State::share_out() {
  // Negative: measured, in images a second, which shares given are not.
  agree(attempt([&] {
    speeds.resize(static_cast<std::size_t>(ranks));
    if (options.share) {
      my_speed.share = *options.share;
      return;
    }
    const Conv2dPlan sample = base->reshaped(std::max(1, desc.n / ranks), desc.h, desc.w);
    std::vector<float> from(sample.desc().src_size()), to(sample.desc().dst_size());
    double best_ms = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 3; ++i) {
      const auto start = Clock::now();
      sample.run(from, to);
      best_ms = std::min(best_ms, milliseconds(Clock::now() - start));
    }
    my_speed.share = -1 / std::max(best_ms, 1e-6);
    // Processors of one name differ by the cores that each rank was given.
    if (device.info().id != "cpu")
      my_speed.product = static_cast<double>(std::hash<std::string>()(device.info().name) >> 12U);  // exact as a double
  }));
  check(MPI_Iallgather(&my_speed, 2, MPI_DOUBLE, speeds.data(), 2, MPI_DOUBLE, comm, &requests.emplace_back()),
        "comparing speeds");
  wait("comparing speeds");
  agree(attempt([&] {
    std::vector<double> shares;
    std::vector<std::size_t> products;
    for (const Speed& speed : speeds) {
      shares.push_back(speed.share);
      products.push_back(static_cast<std::size_t>(speed.product));
    }
    const auto measured = std::count_if(shares.begin(), shares.end(), [](double s) { return s < 0; });
    if (measured != 0 && measured != ranks)
      fail(ErrorCode::invalid_argument,
           "DistributedOptions::share: expected it to be given by every rank or by none, found it on ",
           ranks - measured, " of ", ranks);
    for (double& s : shares) s = std::abs(s);
    if (measured != 0) core::even_out(shares, products);
    if (!std::any_of(shares.begin(), shares.end(), [](double s) { return s > 0; }))
      fail(ErrorCode::invalid_argument,
           "DistributedOptions::share: expected a rank with more than 0, found 0 on every rank");
    images = apportion(desc.n, shares);
    if (const int n = part(rank).n; n > 0) local.emplace(base->reshaped(n, desc.h, desc.w));
  }));
}

Conv2dDesc DistributedPlan::State::part(int of) const {
  Conv2dDesc d = desc;
  d.n = images[static_cast<std::size_t>(of)];
  return d;
}

RunStats DistributedPlan::State::compute(std::span<const float> from, std::span<float> to) const {
  return local ? local->run(from, to) : RunStats{};
}

RunStats DistributedPlan::State::run(std::span<const float> all_src, std::span<float> all_dst) {
  expect_usable();
  const auto start = Clock::now();
  const Conv2dDesc own = part(rank);
  agree(attempt([&] {
    const std::size_t expected_src = rank == 0 ? desc.src_size() : 0, expected_dst = rank == 0 ? desc.dst_size() : 0;
    if (all_src.size() != expected_src || all_dst.size() != expected_dst)
      fail(ErrorCode::invalid_argument, "DistributedPlan::run of ", desc.str(), ": expected src of ", expected_src,
           " and dst of ", expected_dst, " floats on rank ", rank, ", found ", all_src.size(), " and ", all_dst.size(),
           "; rank 0 passes the whole batch, the others nothing (or run_local: each its own part)");
    if (core::overlap(all_src, all_dst))
      fail(ErrorCode::invalid_argument, "DistributedPlan::run of ", desc.str(), ": src and dst must not overlap");
    if (rank == 0) {
      src.assign(all_src.begin() + static_cast<std::ptrdiff_t>(own.src_size()), all_src.end());
      dst.resize(desc.dst_size() - own.dst_size());
      if (desc.accumulate)
        std::copy(all_dst.begin() + static_cast<std::ptrdiff_t>(own.dst_size()), all_dst.end(), dst.begin());
    } else {
      src.resize(own.src_size());
      dst.resize(own.dst_size());
    }
  }));

  RunStats stats;
  std::optional<Error> error;
  if (rank == 0) {
    const auto for_others = [&](const auto& move) {
      std::size_t from = 0, to = 0;
      for (int other = 1; other < ranks; ++other) {
        const Conv2dDesc theirs = part(other);
        move(std::span(src).subspan(from, theirs.src_size()), std::span(dst).subspan(to, theirs.dst_size()), other);
        from += theirs.src_size();
        to += theirs.dst_size();
      }
    };
    for_others([&](std::span<const float> from, std::span<float> to, int other) {
      send(from, other);
      if (desc.accumulate) send(to, other);
    });
    wait("dealing out images");
    for_others([&](std::span<const float>, std::span<float> to, int other) { receive(to, other); });
    error = attempt([&] { stats = compute(all_src.first(own.src_size()), all_dst.first(own.dst_size())); });
    wait("collecting results");
  } else {
    receive(src, 0);
    if (desc.accumulate) receive(dst, 0);
    wait("receiving images");
    error = attempt([&] { stats = compute(src, dst); });
    send(dst, 0);  // whatever it holds: rank 0 waits for it, and hears of the error next
    wait("sending results");
  }
  agree(error);
  if (rank == 0) std::copy(dst.begin(), dst.end(), all_dst.begin() + static_cast<std::ptrdiff_t>(own.dst_size()));
  stats.total_ms = milliseconds(Clock::now() - start);
  return stats;
}

RunStats DistributedPlan::State::run_local(std::span<const float> my_src, std::span<float> my_dst) {
  expect_usable();
  const auto start = Clock::now();
  RunStats stats;
  agree(attempt([&] {
    const Conv2dDesc own = part(rank);
    if (my_src.size() != own.src_size() || my_dst.size() != own.dst_size())
      fail(ErrorCode::invalid_argument, "DistributedPlan::run_local of ", desc.str(), ": expected src of ",
           own.src_size(), " and dst of ", own.dst_size(), " floats on rank ", rank, " for its ", own.n,
           " images, found ", my_src.size(), " and ", my_dst.size(), "; local_desc() has the sizes");
    stats = compute(my_src, my_dst);
  }));
  stats.total_ms = milliseconds(Clock::now() - start);
  return stats;
}

void DistributedPlan::Release::operator()(State* state) const noexcept {
  if (state == nullptr || state->ended) return;  // MPI may still read and write its memory: kept for good
  int finalised = 0;
  MPI_Finalized(&finalised);
  if (finalised == 0 && state->comm != MPI_COMM_NULL) MPI_Comm_free(&state->comm);
  delete state;
}

DistributedPlan::DistributedPlan(MPI_Comm communicator, const Device& device, const Conv2dDesc& desc,
                                 std::span<const float> weights, std::span<const float> bias,
                                 const DistributedOptions& options)
    : state_(new State(device, desc, options)) {
  state_->connect(communicator);
  state_->prepare(weights, bias);
  state_->share_out();
}

DistributedPlan::DistributedPlan(DistributedPlan&&) noexcept = default;
DistributedPlan& DistributedPlan::operator=(DistributedPlan&&) noexcept = default;
DistributedPlan::~DistributedPlan() = default;

RunStats DistributedPlan::run(std::span<const float> src, std::span<float> dst) { return state_->run(src, dst); }
RunStats DistributedPlan::run_local(std::span<const float> src, std::span<float> dst) {
  return state_->run_local(src, dst);
}

const Conv2dDesc& DistributedPlan::desc() const { return state_->desc; }
Conv2dDesc DistributedPlan::local_desc() const { return state_->part(state_->rank); }
const std::vector<int>& DistributedPlan::images() const { return state_->images; }
const Device& DistributedPlan::device() const { return state_->device; }
std::string DistributedPlan::kernel() const { return state_->base->kernel(); }
int DistributedPlan::rank() const { return state_->rank; }
int DistributedPlan::ranks() const { return state_->ranks; }

Device local_device(MPI_Comm communicator) {
  expect_initialised();
  MPI_Comm machine = MPI_COMM_NULL;
  MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
  int place = 0;
  MPI_Comm_rank(machine, &place);
  MPI_Comm_free(&machine);
  const std::vector<Device> all = devices();
  std::vector<Device> gpus;
  std::copy_if(all.begin() + 1, all.end(), std::back_inserter(gpus),
               [](const Device& device) { return !device.info().software; });
  return gpus.empty() ? all.front() : gpus[static_cast<std::size_t>(place) % gpus.size()];
}

}  // namespace convrt
