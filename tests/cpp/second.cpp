// The header in a second file of the same program: everything in it is inline.
#include <blaze.hpp>

bool header_works_in_a_second_file(const blaze::engine &engine);
bool header_works_in_a_second_file(const blaze::engine &engine) {
    blaze::result<blaze::dispatcher> made = blaze::dispatcher::try_polled(engine, 4);
    return made && made->in_flight() == 0 && made->poll() == 0 && engine.health().state == BLAZE_HEALTH_OK;
}
