/// \file
/// The forms in which a GL device's stream overlaps copies with convolutions, and which of them a driver gets.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "core/backend.hpp"
#include "gl/gl_context.hpp"

namespace convrt::gl {

/// How a job gets from stage to stage.
enum class StreamOrder {
  epochs,    ///< one context: the upload of a job, the convolutions of another, the download of a third, no barriers
  contexts,  ///< a context a stage; the GPU waits for the fence of the stage before (glWaitSync)
  ordered,   ///< a context a stage; the host starts a stage when it sees the one before done, no GPU waits for another
};

struct StreamForm {
  const char* name;  ///< as in CONVRT_GL_STREAM
  StreamOrder order;
  Polling polling;
};

/// Most welcome first: copies by copy engines leave a GPU's processors to the convolutions.
inline constexpr std::array<StreamForm, 6> kStreamForms = {{
    {"ordered", StreamOrder::ordered, Polling::inside},
    {"ordered.polled", StreamOrder::ordered, Polling::outside},
    {"contexts", StreamOrder::contexts, Polling::inside},
    {"contexts.polled", StreamOrder::contexts, Polling::outside},
    {"epochs", StreamOrder::epochs, Polling::inside},
    {"epochs.polled", StreamOrder::epochs, Polling::outside},
}};

/// nullopt for a name of none.
std::optional<StreamForm> stream_form(std::string_view name);

/// The first of the forms with which a stream of small convolutions took about the least time an item on this device,
/// among those whose results were right. `open` opens a stream of one convolution in a form. Takes about 100 ms beside
/// compiling one kernel, once: the user's tune cache remembers what each form took, by device and driver. What fails is
/// a log line; where every form does, epochs remain.
StreamForm fastest_stream_form(
    core::Backend& backend,
    const std::function<std::unique_ptr<core::Stream>(std::shared_ptr<const core::PreparedConv> conv, StreamForm form)>&
        open);

}  // namespace convrt::gl
