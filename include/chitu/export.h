#pragma once

#if defined(_WIN32)
#define CHITU_API
#else
#define CHITU_API __attribute__((visibility("default")))
#endif
