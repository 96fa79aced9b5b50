using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.Versioning;
using System.Text;
using Bunraku.Cli.CommandLine;
using Bunraku.Sessions.Control;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Named VMs and who asks them: docs/control.md.</summary>
[SupportedOSPlatform("linux")]
public sealed class ControlTests : IDisposable
{
    private static readonly TimeSpan s_limit = TimeSpan.FromSeconds(30);

    private static readonly byte[] s_waits = TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, "waiting\n");
        TestKernel.Loop(a);
    });

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-control-").FullName;
    private readonly TemporaryFile _kernel = new(s_waits);

    public void Dispose()
    {
        _kernel.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private ControlFolder Folder => new(Path.Combine(_folder, "bunraku"));

    private Vm Start(ControlServer server)
    {
        Vm vm = new VmBuilder(KnownEngines.All) { Engine = "interp", Kernel = _kernel.Path, Memory = 16 << 20 }.Build();
        server.Attach(vm);
        vm.Start();
        return vm;
    }

    [Fact]
    public void A_VM_is_seen_asked_and_ended_by_its_name()
    {
        using var server = new ControlServer(Folder, "one");
        Assert.Equal(["one"], Folder.Names());
        using ControlClient client = ControlClient.Connect(Folder, "one");
        Assert.Equal("starting", client.Ask(new ControlRequest("status"), s_limit).Status!.State);
        Assert.Contains("being made", Assert.Throws<ControlException>(() => client.Ask(new ControlRequest("quit"), s_limit)).Message, StringComparison.Ordinal);
        using Vm vm = Start(server);
        ControlStatus status = client.Ask(new ControlRequest("status"), s_limit).Status!;
        Assert.Equal(("one", Environment.ProcessId, "interp", 16ul << 20, 1, "running"),
            (status.Name, status.Pid, status.Engine, status.Memory, status.Cpus, status.State));
        Assert.Contains("stopped", client.Ask(new ControlRequest("monitor", "stop", 200), s_limit).Text, StringComparison.Ordinal);
        Assert.Equal("stopped", client.Ask(new ControlRequest("status"), s_limit).Status!.State);
        Assert.Contains("RIP=", client.Ask(new ControlRequest("monitor", "info registers"), s_limit).Text, StringComparison.Ordinal);
        client.Ask(new ControlRequest("monitor", "cont"), s_limit);
        client.Ask(new ControlRequest("power"), s_limit);
        Assert.False(vm.Ended); // the guest does not listen
        client.Ask(new ControlRequest("quit"), s_limit);
        Assert.Equal(HostEnd.Quit, vm.Wait().HostEnd);
    }

    [Fact]
    public void A_name_in_use_is_refused_and_what_a_dead_process_left_is_replaced()
    {
        using (var server = new ControlServer(Folder, "one"))
        {
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Path.Combine(Folder.Path, "one.sock")));
            Assert.Contains("'one' runs already", Assert.Throws<ControlException>(() => new ControlServer(Folder, "one")).Message, StringComparison.Ordinal);
            using var other = new ControlServer(Folder, "two");
            Assert.Equal(["one", "two"], Folder.Names());
        }
        Assert.Empty(Folder.Names());
        using (var left = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            left.Bind(new UnixDomainSocketEndPoint(Path.Combine(Folder.Path, "x")));
        }
        // The runtime removes the path of a socket that it closes; a process that is killed does not.
        using (var process = Process.Start("/bin/true")) process.WaitForExit();
        File.WriteAllText(Path.Combine(Folder.Path, "one.sock"), "");
        Assert.Contains("no VM named 'one'", Assert.Throws<ControlException>(() => ControlClient.Connect(Folder, "one")).Message, StringComparison.Ordinal);
        using (new ControlServer(Folder, "one")) ControlClient.Connect(Folder, "one").Dispose();
        foreach (string name in (string[])["", "a/b", "ä", "x y", new string('x', 65)])
            Assert.DoesNotContain('\n', Assert.Throws<ControlException>(() => new ControlServer(Folder, name)).Message);
    }

    [Fact]
    public void A_folder_that_others_can_look_into_is_refused()
    {
        Directory.CreateDirectory(Folder.Path);
        File.SetUnixFileMode(Folder.Path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute | UnixFileMode.OtherRead);
        Assert.Contains("not yours alone", Assert.Throws<ControlException>(() => new ControlServer(Folder, "one")).Message, StringComparison.Ordinal);
        // Who could write there could answer, too.
        Assert.Contains("not yours alone", Assert.Throws<ControlException>(() => ControlClient.Connect(Folder, "one")).Message, StringComparison.Ordinal);
        Assert.Contains("not yours alone", Assert.Throws<ControlException>(() => DetachedTerminal.PrintLog(Folder, "one", false)).Message,
            StringComparison.Ordinal);
        string link = Path.Combine(_folder, "link");
        Directory.CreateSymbolicLink(link, Directory.CreateDirectory(Path.Combine(_folder, "real"), UnixFileMode.UserRead | UnixFileMode.UserWrite
            | UnixFileMode.UserExecute).FullName);
        Assert.Contains("not yours alone", Assert.Throws<ControlException>(() => new ControlServer(new ControlFolder(link), "one")).Message,
            StringComparison.Ordinal);
    }

    /// <summary>Random bytes, lines that are too long, clients that go away or say nothing: the VM runs on and answers others.</summary>
    [Fact]
    public void Hostile_clients_change_nothing()
    {
        using var server = new ControlServer(Folder, "one");
        using Vm vm = Start(server);
        var random = new Random(3);
        string[] words = ["{\"do\":\"status\"}", "{\"do\":\"monitor\",\"line\":\"info", "{\"do\":null}", "[[[[[[[[", "{\"do\":\"status\",\"do\":\"status\"}",
            "{\"do\":\"migrate\",\"to\":\"unix:/nowhere\"}", "{\"do\":\"migrate\",\"to\":\"" + new string('x', 200) + "\"}", "\"", "\0\0", "{\"do\":\"wait\"}"];
        for (int n = 0; n < 200; n++)
        {
            using Socket client = Connect();
            try
            {
                for (int k = random.Next(4); k > 0; k--)
                {
                    byte[] bytes = random.Next(3) switch
                    {
                        0 => Encoding.UTF8.GetBytes(words[random.Next(words.Length)] + "\n"),
                        1 => [.. Encoding.UTF8.GetBytes(words[random.Next(words.Length)]), (byte)random.Next(256), (byte)'\n'],
                        _ => new byte[random.Next(1, 200_000)],
                    };
                    client.Send(bytes);
                }
                if (random.Next(2) == 0) client.Shutdown(SocketShutdown.Both);
            }
            catch (SocketException)
            {
                // It was thrown out.
            }
        }
        using (Socket flood = Connect())
        {
            byte[] much = new byte[1 << 16];
            var thrownOut = Record.Exception(() =>
            {
                for (int n = 0; n < 1000; n++) flood.Send(much);
            });
            Assert.IsType<SocketException>(thrownOut);
        }
        List<Socket> silent = [.. Enumerable.Range(0, 8).Select(_ => Connect())];
        using ControlClient good = ControlClient.Connect(Folder, "one");
        Assert.Equal("running", good.Ask(new ControlRequest("status"), s_limit).Status!.State);
        foreach (Socket s in silent) s.Dispose();

        Socket Connect()
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { SendTimeout = (int)s_limit.TotalMilliseconds };
            socket.Connect(new UnixDomainSocketEndPoint(Path.Combine(Folder.Path, "one.sock")));
            return socket;
        }
    }

    /// <summary>The commands of the program, as processes.</summary>
    [Fact]
    public void The_commands_reach_a_VM_of_another_process()
    {
        using TestProcess vm = Launch("run", "--name", "v.1", "--engine", "interp", "--memory", "16M", "--kernel", _kernel.Path);
        Assert.Equal("waiting", vm.StandardOutput.ReadLine());
        string list = Run(0, "ps");
        Assert.Matches($"^NAME +PID +ENGINE +MEMORY +CPUS +STATE +UPTIME\nv.1 +{vm.Id} +interp +16 MiB +1 +running +00:00:..\n$", list);
        Assert.Contains("engine interp", Run(0, "monitor", "v.1", "--", "info", "status"), StringComparison.Ordinal);
        Assert.Contains("'v.1' runs already", Run(1, "run", "--name", "v.1", "hello"), StringComparison.Ordinal);
        Assert.Contains("no VM named 'other'", Run(1, "kill", "other"), StringComparison.Ordinal);
        Assert.Contains("nobody waits at unix:", Run(1, "migrate", "v.1", $"unix:{_folder}/x"), StringComparison.Ordinal);
        Assert.Contains("did not shut down within 0.1 s", Run(0, "stop", "v.1", "--wait", "100ms"), StringComparison.Ordinal);
        vm.WaitForExit();
        Assert.Equal(0, vm.ExitCode);
        Assert.Equal("NAME  PID  ENGINE  MEMORY  CPUS  STATE  UPTIME\n", Run(0, "ps"));
    }

    /// <summary>A VM goes from one process to another one, which has been told nothing of it.</summary>
    [Fact]
    public void A_VM_moves_to_another_process()
    {
        string place = $"unix:{_folder}/place";
        using TestProcess vm = Launch("run", "--name", "v", "--engine", "interp", "--memory", "16M", "--kernel", _kernel.Path);
        Assert.Equal("waiting", vm.StandardOutput.ReadLine());
        using TestProcess next = Launch("receive", place, "--engine", "bt", "--name", "w");
        for (long start = Stopwatch.GetTimestamp(); !File.Exists(Path.Combine(_folder, "place")); Thread.Sleep(10))
            Assert.True(Stopwatch.GetElapsedTime(start) < s_limit && !next.HasExited);
        Assert.StartsWith("moved in ", Run(0, "migrate", "v", place), StringComparison.Ordinal);
        vm.WaitForExit();
        Assert.Equal((0, "bunraku: the guest goes on where it was moved to\n"), (vm.ExitCode, vm.StandardError.ReadToEnd()));
        for (long start = Stopwatch.GetTimestamp(); !Run(0, "ps").Contains("running", StringComparison.Ordinal); Thread.Sleep(10))
            Assert.True(Stopwatch.GetElapsedTime(start) < s_limit && !next.HasExited);
        Assert.Matches($"\nw +{next.Id} +bt +16 MiB +1 +running ", Run(0, "ps"));
        Assert.Equal("", Run(0, "kill", "w"));
        next.WaitForExit();
    }

    private TestProcess Launch(params string[] arguments) => new(Prepare(arguments));

    private ProcessStartInfo Prepare(string[] arguments) => BunrakuProgram.Prepare(_folder, arguments);

    private string Run(int status, params string[] arguments) => BunrakuProgram.Run(_folder, status, arguments);

    [Theory]
    [InlineData("no name of a VM", "run", "--name", "a/b")]
    [InlineData("the VM's name is missing", "stop")]
    [InlineData("a command is missing behind --", "monitor", "v")]
    [InlineData("no place for a VM", "migrate", "v", "file:x")]
    [InlineData("not of this host", "receive", "tcp:192.0.2.1:80")]
    [InlineData("goes with 'run', 'restore' and 'monitor'", "stop", "v", "--", "x")]
    public void Wrong_words_are_named(string says, params string[] arguments) =>
        Assert.Contains(says, Assert.Throws<UsageException>(() => CommandLineParser.Parse(arguments)).Message, StringComparison.Ordinal);
}
