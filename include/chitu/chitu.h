#pragma once

#include "chitu/attention.h"
#include "chitu/error.h"
#include "chitu/kernels.h"
#include "chitu/method.h"
#include "chitu/quantize.h"
#include "chitu/tensor.h"
#include "chitu/version.h"
