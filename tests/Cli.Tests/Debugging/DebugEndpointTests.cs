using Bunraku.Sessions;
using Bunraku.Sessions.Debugging;

namespace Bunraku.Cli.Tests;

/// <summary>Where a VM listens for a debugger.</summary>
public sealed class DebugEndpointTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-gdb-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("127.0.0.1:1234", "127.0.0.1:1234")]
    [InlineData(":1234", "127.0.0.1:1234")]
    [InlineData("localhost:1234", "127.0.0.1:1234")]
    [InlineData("127.0.0.7:0", "127.0.0.7:0")]
    [InlineData("[::1]:65535", "[::1]:65535")]
    [InlineData("unix:/a/b", "/a/b")]
    public void AnEndpointIsLoopbackOrASocket(string text, string expected) => Assert.Equal(expected, DebugEndpoint.Parse(text).ToString());

    [Theory]
    [InlineData("0.0.0.0:1234", "'0.0.0.0' is no loopback address, and who connects has all of the guest: use 127.0.0.1:1234 or unix:PATH")]
    [InlineData("[::]:1", "'[::]' is no loopback address, and who connects has all of the guest: use 127.0.0.1:1 or unix:PATH")]
    [InlineData("192.0.2.1:1", "'192.0.2.1' is no loopback address, and who connects has all of the guest: use 127.0.0.1:1 or unix:PATH")]
    [InlineData("example:1", "'example' is no address; a debugger can connect to 127.0.0.1:1 or unix:PATH")]
    [InlineData("1234", "'1234' is no place for a debugger to connect to; write for example 127.0.0.1:1234 or unix:PATH")]
    [InlineData("127.0.0.1:65536", "'127.0.0.1:65536' is no place for a debugger to connect to; write for example 127.0.0.1:1234 or unix:PATH")]
    [InlineData("", "'' is no place for a debugger to connect to; write for example 127.0.0.1:1234 or unix:PATH")]
    [InlineData("unix:", "unix:PATH needs a path")]
    public void AnythingElseIsRefusedInOneLine(string text, string message) =>
        Assert.Equal(message, Assert.Throws<FormatException>(() => DebugEndpoint.Parse(text)).Message);

    private VmBuilder Builder(DebugEndpoint where) => new(KnownEngines.All) { Engine = "interp", Guest = "hello", Memory = 16 << 20, Debugger = where };

    [Fact]
    public void TheSocketIsItsOwnersAloneAndGoesWithTheVm()
    {
        string path = Path.Combine(_folder, "socket");
        using (Vm vm = Builder(DebugEndpoint.Unix(path)).Build())
        {
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(path));
            Assert.Equal([path], Directory.GetFileSystemEntries(_folder));
            Assert.Equal(path, vm.Debugger!.Endpoint.Path);
        }
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Fact]
    public void WhatLiesThereStays()
    {
        string path = Path.Combine(_folder, "file");
        File.WriteAllText(path, "mine");
        var e = Assert.Throws<CannotStartException>(() => Builder(DebugEndpoint.Unix(path)).Build());
        Assert.Equal($"the debugger's socket {path} cannot be listened on: File exists", e.Message);
        Assert.Equal("mine", File.ReadAllText(path));
        Assert.Equal([path], Directory.GetFileSystemEntries(_folder));
        string socket = Path.Combine(_folder, "socket");
        using Vm first = Builder(DebugEndpoint.Unix(socket)).Build();
        e = Assert.Throws<CannotStartException>(() => Builder(DebugEndpoint.Unix(socket)).Build());
        Assert.Equal($"the debugger's socket {socket} cannot be listened on: somebody listens there already", e.Message);
        e = Assert.Throws<CannotStartException>(() => Builder(DebugEndpoint.Unix(Path.Combine(_folder, "none", "socket"))).Build());
        Assert.EndsWith("cannot be listened on: No such file or directory", e.Message);
    }

    [Fact]
    public void AnEngineThatCannotBeDebuggedIsToldOrPassedOver()
    {
        var scripted = new ScriptedEngine();
        var builder = new VmBuilder([scripted]) { Engine = "scripted", Cpu = null, Guest = "hello", Debugger = DebugEndpoint.Loopback() };
        var e = Assert.Throws<VmOptionException>(() => builder.Build());
        Assert.Equal((nameof(VmOptions.Debugger), "Debugger: the engine 'scripted' cannot be debugged yet"), (e.Option, e.Message));
        using Vm vm = (Builder(DebugEndpoint.Loopback()) with { Engines = [scripted, .. KnownEngines.All], Engine = VmOptions.AutomaticEngine }).Build();
        Assert.NotEqual("scripted", vm.EngineName);
    }

    [Fact]
    public void APortOfTheSystemsChoiceIsTold()
    {
        using Vm vm = Builder(DebugEndpoint.Loopback()).Build();
        Assert.NotEqual(0, vm.Debugger!.Endpoint.Address!.Port);
        var e = Assert.Throws<CannotStartException>(() => Builder(vm.Debugger.Endpoint).Build());
        Assert.Contains("cannot be listened on: Address already in use", e.Message);
        Assert.Throws<InvalidOperationException>(() => vm.ServeDebugger(DebugEndpoint.Loopback()));
        vm.Debugger.Dispose();
        Assert.Null(vm.Debugger);
        vm.ServeDebugger(DebugEndpoint.Loopback());
    }
}
