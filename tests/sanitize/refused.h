// Wrong arguments: each must come back as the right status, with a message, and touch nothing else.
#pragma once

#include <string>

// Calls every function that can fail, in one precision; `where` begins the message of a failure.
template <class real>
void refuse_all(const std::string& where);
