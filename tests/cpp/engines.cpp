// Engines: models, routes, tenants, memory, logs, profiles, and how they are doing.
#include "check.hpp"

namespace {

bool has(const blaze::result<std::string> &text, const char *part) {
    return text && text->find(part) != std::string::npos && text->back() != '\0';
}

void models_are_loaded_found_described_and_unloaded() {
    const blaze::engine engine = new_engine(R"({"models": [{"name": "first", "backend": "mock"}]})");
    const auto first = engine.try_find("first");
    REQUIRE(first.has_value());
    still_works(*first);
    CHECK(has(first->try_info(), R"("name")"));
    std::vector<char> bytes;
    std::FILE *file = std::fopen("tests/models/tiny.onnx", "rb");
    REQUIRE(file);
    for (int byte; (byte = std::fgetc(file)) != EOF;) bytes.push_back(static_cast<char>(byte));
    std::fclose(file);
    const auto tiny = engine.try_load(R"({"name": "tiny"})", bytes.data(), bytes.size());
    REQUIRE(tiny.has_value());
    CHECK(tiny->try_infer(blaze::tensor(one_to_four, {1, 4})).has_value());
    CHECK_STATUS(tiny->try_configure(R"({"lanes": 2})").code(), ok);
    CHECK_STATUS(tiny->try_configure(R"({"lanes": "two"})").code(), invalid_config);
    CHECK(engine.handle(tiny->id()).try_info().has_value());
    blaze::queue queue = *engine.try_queue(4);
    blaze::event event;
    const auto unload = tiny->try_unload(queue);
    CHECK(queue.wait(event, patience) && event.ok() && event.id() == *unload);
    CHECK(event.text().find("freed_bytes") != std::string_view::npos);
    const auto load = engine.try_load(R"({"name": "late", "backend": "mock"})", queue, 9);
    CHECK(queue.wait(event, patience) && event.ok() && event.id() == *load && event.user_data() == 9);
    still_works(engine.handle(event.model_id()));
    CHECK_STATUS(first->try_unload().code(), ok);
}

void memory_may_be_the_programs_own() {
    struct counted {
        std::atomic<int> blocks{0};
    } counted;
    blaze_allocator functions = BLAZE_ALLOCATOR_INIT;
    functions.user = &counted;
    functions.allocate = [](void *user, std::size_t size, std::size_t alignment) -> void * {
        static_cast<struct counted *>(user)->blocks++;
        return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    };
    functions.free = [](void *user, void *address, std::size_t) {
        static_cast<struct counted *>(user)->blocks--;
        std::free(address);
    };
    {
        const auto engine = blaze::engine::try_create(nullptr, functions);
        REQUIRE(engine.has_value());
        still_works(load_mock(*engine, "mock"));
        CHECK(counted.blocks > 0);
        engine->set_budget(1 << 20);
        engine->trim();
    }
    CHECK(counted.blocks == 0);
#ifdef __cpp_lib_memory_resource
    struct resource final : std::pmr::memory_resource {
        std::atomic<std::size_t> bytes{0}, most{0};
        void *do_allocate(std::size_t size, std::size_t alignment) override {
            bytes += size;
            most = std::max(most.load(), bytes.load());
            return std::pmr::new_delete_resource()->allocate(size, alignment);
        }
        void do_deallocate(void *address, std::size_t size, std::size_t alignment) override {
            bytes -= size;
            std::pmr::new_delete_resource()->deallocate(address, size, alignment);
        }
        bool do_is_equal(const memory_resource &other) const noexcept override { return this == &other; }
    } resource;
    {
        const auto engine = blaze::engine::try_create(nullptr, resource);
        REQUIRE(engine.has_value());
        still_works(load_mock(*engine, "mock"));
    }
    CHECK(resource.most > 0 && resource.bytes == 0);
#endif
}

void routes_go_to_their_targets() {
    const blaze::engine engine = new_engine();
    load_mock(engine, "a");
    load_mock(engine, "b");
    auto route = engine.try_route(R"({"name": "r", "targets": [{"model": "a"}]})");
    REQUIRE(route.has_value());
    still_works(*route);
    CHECK_STATUS(route->try_add_target(R"({"model": "b"})").code(), ok);
    CHECK_STATUS(route->try_add_target(R"({"model": "b"})").code(), already_exists);
    CHECK_STATUS(route->try_drain_target("a").code(), ok);
    CHECK(has(route->try_info(), "draining"));
    still_works(*route);
    CHECK_STATUS(route->try_drain_target("a", false).code(), ok);
    CHECK_STATUS(route->try_remove_target("a").code(), ok);
    CHECK_STATUS(route->try_remove_target("a").code(), not_found);
    const blaze::response answer = engine.try_infer(simple(*route).session(1).tenant(2).key(3));
    CHECK(answer && answer->model_id() == engine.try_find("b")->id());
    CHECK_STATUS(route->try_update(R"({"name": "r", "targets": []})").code(), ok);
    CHECK_STATUS(engine.try_infer(simple(*route)).code(), not_found);
    CHECK_STATUS(route->try_remove().code(), ok);
    CHECK_STATUS(route->try_remove().code(), not_found);
}

void a_strategy_of_the_programs_own_picks() {
    const blaze::engine engine = new_engine();
    load_mock(engine, "a");
    const blaze::model b = load_mock(engine, "b");
    std::atomic<int> picks{0};
    auto alive = std::make_shared<int>(0);
    CHECK_STATUS(engine.try_strategy("second", [&picks, alive](const blaze::route_choice &choice) {
        picks++;
        CHECK(choice.size() == 2 && std::string_view(choice[1].model) == "b" && choice.tenant() == 5);
        return 1u;
    }).code(), ok);
    CHECK_STATUS(engine.try_strategy("second", [](const blaze::route_choice &) { return 0u; }).code(), already_exists);
    CHECK_STATUS(engine.try_strategy("none", {}).code(), null_pointer);
    const auto route =
        engine.try_route(R"({"name": "r", "strategy": "second", "targets": [{"model": "a"}, {"model": "b"}]})");
    REQUIRE(route.has_value());
    const blaze::response answer = engine.try_infer(simple(*route).tenant(5));
    CHECK(answer && answer->model_id() == b.id() && picks == 1 && alive.use_count() == 2);
}

void tenants_have_limits() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    CHECK_STATUS(engine.try_tenant(R"({"id": 7, "limits": {"requests_per_second": 0.01, "burst": 1}})").code(), ok);
    CHECK_STATUS(engine.try_tenant(R"({"id": 0})").code(), invalid_config);
    CHECK_STATUS(engine.try_infer(simple(model).tenant(7)).code(), ok);
    CHECK_STATUS(engine.try_infer(simple(model).tenant(7)).code(), rate_limited);
    CHECK_STATUS(engine.try_infer(simple(model)).code(), ok);
}

void lines_of_the_log_come_to_a_function() {
    std::atomic<int> lines{0}, later{0};
    auto alive = std::make_shared<int>(0);
    {
        const blaze::engine engine = new_engine(R"({"log": {"level": "debug", "target": "callback"}})");
        CHECK_STATUS(engine.try_log_to([&lines, alive](const blaze::log_record &line) {
            lines += !line.message.empty() && !line.module.empty() && line.level >= BLAZE_LOG_ERROR &&
                     line.time.time_since_epoch() > 24h;
        }).code(), ok);
        load_mock(engine, "a");
        CHECK(lines > 0 && alive.use_count() == 2);
        CHECK_STATUS(engine.try_log_to([&](const blaze::log_record &) { later++; }).code(), ok);
        CHECK(alive.use_count() == 1); /* the one before is gone */
        load_mock(engine, "b");
        CHECK(later > 0);
        CHECK_STATUS(engine.try_log_to({}).code(), ok);
        CHECK_STATUS(engine.try_log(R"({"level": "loud"})").code(), invalid_config);
        CHECK_STATUS(engine.try_log(R"({"level": "off"})").code(), ok);
        CHECK_STATUS(engine.try_log_to([alive](const blaze::log_record &) {}).code(), ok);
    }
    CHECK(alive.use_count() == 1);
}

void it_says_how_it_is_doing() {
    const blaze::engine engine = new_engine();
    still_works(load_mock(engine, "mock"));
    CHECK(engine.health().state == BLAZE_HEALTH_OK && engine.health().models_ready == 1 && engine.health().ready == 1);
    CHECK(engine.metrics().requests_ok == 1);
    CHECK(has(engine.try_health_json(), R"("live")"));
    CHECK(has(engine.try_metrics_text(), "# TYPE"));
    CHECK(has(engine.try_metrics_text(BLAZE_METRICS_JSON), "{"));
    CHECK_STATUS(engine.try_metrics_text(77).code(), invalid_argument);
    CHECK(has(engine.try_advice_json(), "findings"));
    CHECK(has(engine.try_tune_report(), "models"));
}

void it_is_profiled_and_tuned() {
    const blaze::engine engine = new_engine();
    const blaze::model model = load_mock(engine, "mock");
    CHECK_STATUS(engine.try_profile_report().code(), invalid_state);
    CHECK_STATUS(engine.try_profile(R"({"level": "detailed"})").code(), ok);
    still_works(model);
    CHECK_STATUS(engine.try_stop_profile().code(), ok);
    CHECK(has(engine.try_profile_report(), "settings"));
    CHECK(has(engine.try_profile_report(BLAZE_REPORT_HTML), "<html"));
    const char *search =
        R"({"model": "mock", "max_rows": [1], "max_delay_us": [0], "lanes": [1], "seconds_per_point": 0.05})";
    CHECK_STATUS(engine.try_tune(search).code(), ok);
    CHECK_STATUS(engine.try_tune("{}").code(), invalid_config);
    blaze::queue queue = *engine.try_queue(1);
    const auto tuned = engine.try_tune(search, queue, 3);
    blaze::event event;
    CHECK(tuned && queue.wait(event, patience) && event.user_data() == 3 && !event.text().empty());
}

void a_queue_has_a_descriptor() {
    const blaze::engine engine = new_engine();
    blaze::queue queue = *engine.try_queue(4);
    const auto fd = queue.try_fd();
    CHECK(fd && *fd >= 0 && *queue.try_fd() == *fd);
}

} // namespace

unsigned test_engines(int argc, char **argv) {
    const test tests[] = {
        TEST(models_are_loaded_found_described_and_unloaded),
        TEST(memory_may_be_the_programs_own),
        TEST(routes_go_to_their_targets),
        TEST(a_strategy_of_the_programs_own_picks),
        TEST(tenants_have_limits),
        TEST(lines_of_the_log_come_to_a_function),
        TEST(it_says_how_it_is_doing),
        TEST(it_is_profiled_and_tuned),
        TEST(a_queue_has_a_descriptor),
    };
    return run_tests("engines", tests, argc, argv);
}
