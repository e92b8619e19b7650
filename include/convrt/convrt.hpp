/// \file
/// convrt: fast 2-D convolution on any machine. Describe (Conv2dDesc), pick (find_device), prepare (Conv2dPlan),
/// run (Conv2dPlan::run, Executor, MultiDevicePlan).
#pragma once

#include "convrt/conv2d.hpp"
#include "convrt/device.hpp"
#include "convrt/error.hpp"
#include "convrt/executor.hpp"
#include "convrt/log.hpp"
#include "convrt/multi_device.hpp"
#include "convrt/plan.hpp"
#include "convrt/shader.hpp"
#include "convrt/tuner.hpp"
#include "convrt/version.h"
