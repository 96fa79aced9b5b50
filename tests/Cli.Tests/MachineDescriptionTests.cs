using System.Net;
using System.Net.NetworkInformation;
using System.Text;
using System.Text.Json.Nodes;
using Bunraku.Engines;
using Bunraku.Engines.X86;
using Bunraku.Machine;
using Bunraku.Machine.Board;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Network.Slirp;
using Bunraku.Storage;

namespace Bunraku.Cli.Tests;

/// <summary>The description of a machine goes through JSON whole, and what is no description is one line.</summary>
public sealed class MachineDescriptionTests
{
    private static MachineDescription Whole() => new()
    {
        Version = 2,
        Engine = "bt",
        Memory = 64 << 20,
        Cpus = 2,
        Cpu = "max,-avx",
        Nested = NestedVirtualization.Svm,
        Paravirtual = true,
        TscFrequency = 2_000_000_000,
        EngineApics = false,
        DebugExit = true,
        TestDevice = true,
        CompactDiscs = ["/tmp/a.iso"],
        Disks = [new VmDisk(new DiskOptions("/tmp/a.qcow2") { Format = ImageFormat.Qcow2, AllowBacking = true }) { Serial = "S", Bus = DiskBus.Ahci }],
        DiskShapes = [new(1 << 20, 1 << 16, false), new(2048, 4096, true)],
        Rng = true,
        Networks =
        [
            new UserNetwork(new SlirpOptions { Forwards = [new HostForward(true, IPEndPoint.Parse("127.0.0.1:53"), IPEndPoint.Parse("0.0.0.0:53"))] })
            {
                Mac = PhysicalAddress.Parse("525400123456"),
                Mtu = 1500,
            },
            new TapInterface("tap0"), new UnixCable("/tmp/cable"), new UdpCable(IPEndPoint.Parse("[::1]:1"), IPEndPoint.Parse("[::1]:2")),
            new TcpCable(IPEndPoint.Parse("127.0.0.1:3"), Listens: true), new MulticastCable(IPEndPoint.Parse("239.0.0.1:4"), IPAddress.Loopback),
        ],
        Shares = [new VmShare("/data") { Tag = "t", At = "/mnt", ReadOnly = true, Owners = FileOwners.Host, Cache = FileCache.Always }],
        Vsock = new VmVsock("/tmp/v") { Cid = 9 },
        Balloon = new VmBalloon { DeflateOnOom = false, Reporting = false },
        NoReboot = true,
        Guest = "linux",
        Bios = "seabios",
        RomSize = 128 << 10,
        Kernel = null,
        Initrd = null,
        Modules = ["a b"],
        Append = "x",
        CommandLine = "y x",
        Command = ["true"],
        Console = GuestConsole.CommandOnPorts,
        TakesCommandLate = false,
        Token = "0123abcd",
    };

    [Fact]
    public void Nothing_is_lost()
    {
        byte[] json = Whole().ToJson();
        MachineDescription read = MachineDescription.Parse(json);
        Assert.Equal(Encoding.UTF8.GetString(json), Encoding.UTF8.GetString(read.ToJson()));
        Assert.Equal(Whole().Disks, read.Disks);
        Assert.Equal(Whole().Networks.Skip(1), read.Networks.Skip(1));
        Assert.Equal(Whole().Shares, read.Shares);
        var user = Assert.IsType<UserNetwork>(read.Networks[0]);
        Assert.Equal(Whole().Networks[0].Mac, user.Mac);
        Assert.Equal(((UserNetwork)Whole().Networks[0]).Options.Forwards, user.Options.Forwards);
    }

    [Fact]
    public void A_machine_from_before_there_were_shared_folders_has_none()
    {
        string json = Encoding.UTF8.GetString((Whole() with { Shares = [] }).ToJson());
        Assert.Contains("\"Shares\":[],", json, StringComparison.Ordinal);
        Assert.Empty(MachineDescription.Parse(Encoding.UTF8.GetBytes(json.Replace("\"Shares\":[],", "", StringComparison.Ordinal))).Shares);
    }

    /// <summary>What is missing was never there or is an error: no part of a machine becomes nothing, or what its type says that it is by default.</summary>
    [Fact]
    public void Each_member_is_there_or_missed()
    {
        byte[] whole = Whole().ToJson();
        int count = Objects(JsonNode.Parse(whole)!).Sum(o => o.Count);
        for (int n = 0; n < count; n++)
        {
            JsonNode changed = JsonNode.Parse(whole)!;
            int at = n;
            JsonObject of = Objects(changed).First(o => (at -= o.Count) < 0);
            string name = of.ElementAt(at + of.Count).Key;
            bool isNull = of[name] is null, isPart = of.Parent is not null;
            of.Remove(name);
            try
            {
                _ = MachineDescription.Parse(Encoding.UTF8.GetBytes(changed.ToJsonString())).ToJson();
                Assert.True(isNull || !isPart || of.GetPath().EndsWith(name, StringComparison.Ordinal) || IsOptional(name), $"{of.GetPath()} without {name}");
            }
            catch (StateFormatException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
        }
    }

    /// <summary>Members of parts that older descriptions have not, that may be null, where null is what they are by default, and what is computed.</summary>
    private static bool IsOptional(string name) => name is "Mac" or "Mtu" or "Queues" or "Host" or "NameServer" or "FirstDhcp" or "Format" or "Size" or "Tag"
        or "At" or "Cid" or "StopsWhenFull" or "Path" or "Place" or "Problem" || typeof(MachineIdentity).GetProperty(name) is not null;

    private static IEnumerable<JsonObject> Objects(JsonNode node) => node switch
    {
        JsonObject o => o.Select(p => p.Value).OfType<JsonNode>().SelectMany(Objects).Prepend(o),
        JsonArray a => a.OfType<JsonNode>().SelectMany(Objects),
        _ => [],
    };

    [Theory]
    [InlineData("\"Owners\":\"Host\"", "\"Owners\":\"Nobody\"", "damaged")]
    [InlineData("\"Version\":2", "\"Version\":3", "a newer program")]
    [InlineData("\"Version\":2", "\"Version\":1", "an older program")]
    [InlineData("\"Cpus\":2,", "", "damaged")]
    [InlineData("\"Cpus\":2", "\"Cpus\":-1", "Cpus is -1")]
    [InlineData("\"Cpus\":2", "\"Cpus\":2,\"Spare\":1", "damaged")]
    [InlineData("\"Bus\":\"Ahci\"", "\"Bus\":7", "damaged")]
    [InlineData("\"Kind\":\"tap\"", "\"Kind\":\"any\"", "damaged")]
    [InlineData("525400123456", "5254", "damaged")]
    [InlineData("0123abcd", "../..", "contradicts itself")]
    [InlineData("\"RomSize\":131072", "\"RomSize\":2147483647", "RomSize")]
    [InlineData(",{\"Length\":2048,\"Granularity\":4096,\"IsReadOnly\":true}", "", "sizes")]
    [InlineData("\"Length\":2048", "\"Length\":2047", "a disk that is none")]
    public void What_is_no_description_is_refused_in_one_line(string good, string bad, string says)
    {
        string json = Encoding.UTF8.GetString(Whole().ToJson());
        Assert.Contains(good, json, StringComparison.Ordinal);
        var e = Assert.Throws<StateFormatException>(() => MachineDescription.Parse(Encoding.UTF8.GetBytes(json.Replace(good, bad, StringComparison.Ordinal))));
        Assert.Contains(says, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
    }

    /// <summary>A snapshot from anywhere names a path: nothing is opened there, or replaced.</summary>
    [Fact]
    public void A_description_opens_no_socket() =>
        Assert.Equal(new VmVsock(null) { Cid = 9 }, Whole().ApplyTo(new VmBuilder(KnownEngines.All)).Vsock);

    [Fact]
    public void Bytes_changed_at_random_are_read_or_refused()
    {
        byte[] json = Whole().ToJson();
        var random = new Random(1);
        for (int n = 0; n < 20_000; n++)
        {
            byte[] bytes = [.. json.AsSpan(0, random.Next(4) == 0 ? random.Next(json.Length) : json.Length)];
            for (int k = random.Next(4); k >= 0 && bytes.Length > 0; k--) bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            try
            {
                MachineDescription.Parse(bytes);
            }
            catch (StateFormatException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
        }
    }
}
