using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Bunraku.Network.Slirp;
using Bunraku.Storage;

namespace Bunraku.Cli.Tests;

/// <summary>Linux's own network driver on our card, in user mode: everything stays on this host's loopback.</summary>
public sealed class LinuxNetworkTests : IClassFixture<LinuxGuestFiles>
{
    private static Vm Build(string engine, int cpus, VmNetwork[] networks, string script, Stream output) => new VmBuilder(KnownEngines.All)
    {
        Engine = engine,
        Cpus = cpus,
        Memory = 256 << 20,
        Networks = networks,
        Command = ["sh", "-ec", script],
        Output = output,
        Timeout = TimeSpan.FromMinutes(6),
    }.Build();

    private static async Task<string> Run(string engine, int cpus, VmNetwork[] networks, string script)
    {
        var output = new MemoryStream();
        await using Vm vm = Build(engine, cpus, networks, script, output);
        VmResult result = await vm.RunAsync();
        string text = Encoding.UTF8.GetString(output.ToArray());
        Assert.True(result.ExitStatus == 0, $"status {result.ExitStatus}: {text}");
        return text;
    }

    /// <summary>
    /// systemd names cards by their slots, and an installer writes the name down: a system that was installed from a CD must have its network without the CD,
    /// and with one disk more.
    /// </summary>
    [Theory]
    [InlineData(NetworkModel.Virtio)]
    [InlineData(NetworkModel.E1000)]
    public async Task A_card_has_its_slot_whatever_else_there_is(NetworkModel model)
    {
        using TemporaryFile disk = new(new byte[1 << 20]), disc = new(new byte[1 << 20]);
        var output = new MemoryStream();
        VmNetwork network = new UserNetwork(new SlirpOptions()) { Model = model };
        VmBuilder few = new(KnownEngines.All)
        {
            Guest = "linux-generic",
            Memory = 256 << 20,
            Networks = [network, network],
            Command = ["sh", "-ec", "for n in 0 1; do readlink -f /sys/class/net/eth$n/device | grep -o '0000:00:[^/]*'; done"],
            Output = output,
            Timeout = TimeSpan.FromMinutes(6),
        };
        VmBuilder many = few with
        {
            Disks = [new VmDisk(new DiskOptions(disk.Path) { Format = ImageFormat.Raw })],
            CompactDiscs = [disc.Path],
            Rng = true,
            Display = DisplayKind.Standard,
        };
        foreach (VmBuilder builder in (VmBuilder[])[few, many])
        {
            output.SetLength(0);
            await using Vm vm = builder.Build();
            VmResult result = await vm.RunAsync();
            Assert.Equal((0, "0000:00:03.0\n0000:00:04.0\n"), (result.ExitStatus, Encoding.UTF8.GetString(output.ToArray())));
        }
    }

    private static TcpListener Listen()
    {
        var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return listener;
    }

    /// <summary>Answers GET with a file, and other requests with the sum of what was sent, so many times.</summary>
    private static async Task ServeHttp(TcpListener listener, byte[] file, int requests)
    {
        for (int n = 0; n < requests; n++)
        {
            using TcpClient client = await listener.AcceptTcpClientAsync();
            NetworkStream stream = client.GetStream();
            var head = new StringBuilder();
            byte[] next = new byte[1];
            while (!head.ToString().EndsWith("\r\n\r\n", StringComparison.Ordinal))
            {
                await stream.ReadExactlyAsync(next);
                head.Append((char)next[0]);
            }
            byte[] answer = file;
            if (!head.ToString().StartsWith("GET", StringComparison.Ordinal))
            {
                const string length = "Content-Length: ";
                string rest = head.ToString()[(head.ToString().IndexOf(length, StringComparison.Ordinal) + length.Length)..];
                byte[] body = new byte[int.Parse(rest[..rest.IndexOf('\r')], System.Globalization.CultureInfo.InvariantCulture)];
                await stream.ReadExactlyAsync(body);
                answer = Encoding.ASCII.GetBytes(Convert.ToHexStringLower(SHA256.HashData(body)));
            }
            await stream.WriteAsync(Encoding.ASCII.GetBytes($"HTTP/1.0 200 OK\r\nContent-Length: {answer.Length}\r\n\r\n"));
            await stream.WriteAsync(answer);
        }
    }

    /// <summary>What was fetched and what was sent has its checksum, with large packets and with common ones; the guest has set itself up by DHCP.</summary>
    [Theory]
    [InlineData("bt", 2, null, 64 << 20)]
    [InlineData("bt", 1, 1500, 16 << 20)]
    [InlineData("interp", 1, null, 4 << 20)]
    public async Task A_file_comes_whole_from_the_hosts_loopback(string engine, int cpus, int? mtu, int length)
    {
        byte[] file = new byte[length];
        new Random(4).NextBytes(file);
        using TcpListener listener = Listen();
        Task server = ServeHttp(listener, file, 2);
        int port = ((IPEndPoint)listener.LocalEndpoint).Port;
        string text = await Run(engine, cpus, [new UserNetwork(new SlirpOptions { HostLoopback = true }) { Mtu = mtu }], $"""
            ip -4 -o addr show eth0 | grep -o 'inet [^ ]*'; cat /sys/class/net/eth0/mtu; cat /etc/resolv.conf; ip route | grep -o 'default via [^ ]*'
            wget -q -O /tmp/f http://10.0.2.2:{port}/f; sha256sum </tmp/f
            (printf 'POST / HTTP/1.0\r\nContent-Length: {length / 4}\r\n\r\n'; head -c {length / 4} /tmp/f) | nc 10.0.2.2 {port} | tail -n 1
            """);
        Assert.Equal($"""
            inet 10.0.2.15/24
            {mtu ?? 65520}
            nameserver 10.0.2.3
            default via 10.0.2.2
            {Convert.ToHexStringLower(SHA256.HashData(file))}  -
            {Convert.ToHexStringLower(SHA256.HashData(file.AsSpan(0, length / 4)))}
            """, text);
        await server; // behind the comparison: a guest that could not reach it would be waited for
    }

    /// <summary>Linux's driver of Intel's card, with what it offloads: it has set itself up by DHCP, and its streams are whole.</summary>
    [Theory]
    [InlineData("bt", 2, 24 << 20)]
    [InlineData("interp", 1, 2 << 20)]
    public async Task Intels_card_carries_a_file(string engine, int cpus, int length)
    {
        byte[] file = new byte[length];
        new Random(4).NextBytes(file);
        using TcpListener listener = Listen();
        Task server = ServeHttp(listener, file, 2);
        int port = ((IPEndPoint)listener.LocalEndpoint).Port;
        var output = new MemoryStream();
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Guest = "linux-generic",
            Engine = engine,
            Cpus = cpus,
            Memory = 256 << 20,
            Networks = [new UserNetwork(new SlirpOptions { HostLoopback = true }) { Model = NetworkModel.E1000, Mac = PhysicalAddress.Parse("525400123456") }],
            Command = ["sh", "-ec", $"""
                readlink /sys/class/net/eth0/device/driver | grep -o '[^/]*$'; cat /sys/class/net/eth0/address /sys/class/net/eth0/speed
                ip -4 -o addr show eth0 | grep -o 'inet [^ ]*'
                wget -q -O /tmp/f http://10.0.2.2:{port}/f; sha256sum </tmp/f
                (printf 'POST / HTTP/1.0\r\nContent-Length: {length / 2}\r\n\r\n'; head -c {length / 2} /tmp/f) | nc 10.0.2.2 {port} | tail -n 1
                """],
            Output = output,
            Timeout = TimeSpan.FromMinutes(6),
        }.Build();
        VmResult result = await vm.RunAsync();
        string text = Encoding.UTF8.GetString(output.ToArray());
        Assert.True(result.ExitStatus == 0, $"status {result.ExitStatus}: {text}");
        Assert.Equal($"""
            e1000
            52:54:00:12:34:56
            1000
            inet 10.0.2.15/24
            {Convert.ToHexStringLower(SHA256.HashData(file))}  -
            {Convert.ToHexStringLower(SHA256.HashData(file.AsSpan(0, length / 2)))}
            """, text);
        await server; // behind the comparison: a guest that could not reach it would be waited for
    }

    /// <summary>A guest that was kept has a card with another address each time, gets its own by DHCP, and reaches what this run lets it reach.</summary>
    [Fact]
    public async Task A_kept_guest_has_a_network_of_its_own()
    {
        string folder = Directory.CreateTempSubdirectory("bunraku-kept").FullName;
        try
        {
            using TcpListener listener = Listen();
            byte[] file = RandomNumberGenerator.GetBytes(100_000);
            Task server = ServeHttp(listener, file, 2);
            var addresses = new HashSet<string>();
            for (int n = 0; n < 2; n++)
            {
                var output = new MemoryStream();
                await using Vm vm = new VmBuilder(KnownEngines.All)
                {
                    Memory = 256 << 20,
                    Networks = [new UserNetwork(new SlirpOptions { HostLoopback = true })],
                    Command = ["sh", "-ec", $"cat /sys/class/net/eth0/address; ip -4 -o addr show eth0 | grep -o 'inet [^ ]*'; "
                        + $"wget -q -O - http://10.0.2.2:{((IPEndPoint)listener.LocalEndpoint).Port}/f | sha256sum"],
                    KeepBooted = true,
                    KeptFolder = folder,
                    Output = output,
                    Timeout = TimeSpan.FromMinutes(4),
                }.Build();
                VmResult result = await vm.RunAsync();
                Assert.Equal(0, result.ExitStatus);
                if (n > 0) Assert.InRange(result.Statistics!.Instructions, 1ul, 200_000_000ul); // a boot takes a billion
                string[] lines = Encoding.ASCII.GetString(output.ToArray()).Split('\n');
                addresses.Add(lines[0]);
                Assert.Equal(["inet 10.0.2.15/24", Convert.ToHexStringLower(SHA256.HashData(file)) + "  -"], lines[1..3]);
            }
            await server;
            Assert.Equal(2, addresses.Count);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>A port of the host leads to a server of the guest; the host's loopback is closed to the guest.</summary>
    [Fact]
    public async Task A_forwarded_port_leads_into_the_guest()
    {
        using TcpListener secret = Listen();
        int tcp = FreePort(), port = ((IPEndPoint)secret.LocalEndpoint).Port;
        var options = new SlirpOptions { Forwards = [HostForward.Parse($"tcp::{tcp}-:80")] };
        var output = new MemoryStream();
        await using Vm vm = Build("bt", 1, [new UserNetwork(options)], $"""
            ! nc -w 5 10.0.2.2 {port} </dev/null >/dev/null 2>&1
            dd if=/dev/urandom of=/tmp/f bs=1M count=8 2>/dev/null; sha256sum </tmp/f
            nc -l -p 80 </tmp/f
            """, output); // nc goes when the client does: a guest that ends before would keep what it has not sent
        Task<VmResult> run = vm.RunAsync();
        var fetched = new MemoryStream();
        while (fetched.Length == 0 && !run.IsCompleted)
        {
            using var client = new TcpClient();
            await client.ConnectAsync(IPAddress.Loopback, tcp);
            try
            {
                await Task.WhenAny(client.GetStream().CopyToAsync(fetched), run).Unwrap();
            }
            catch (IOException)
            {
                // nobody listens yet: the guest has reset the connection
            }
            if (fetched.Length == 0) await Task.Delay(100);
        }
        VmResult result = await run;
        Assert.Equal(0, result.ExitStatus);
        Assert.Equal($"{Convert.ToHexStringLower(SHA256.HashData(fetched.ToArray()))}  -\n", Encoding.ASCII.GetString(output.ToArray()));
        Assert.False(secret.Pending());
    }

    private static int FreePort()
    {
        using TcpListener listener = Listen();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    /// <summary>Two machines on a cable.</summary>
    [Fact]
    public async Task Two_machines_talk_over_a_cable()
    {
        string path = Path.Combine(Directory.CreateTempSubdirectory("bunraku-net").FullName, "cable");
        const string left = """
            ip addr add 192.168.9.1/24 dev eth0; head -c 3000000 /dev/urandom >/tmp/f; sha256sum </tmp/f
            nc -l -p 9 -e cat /tmp/f
            """;
        // Nobody tells when the other one listens.
        const string right = """
            ip addr add 192.168.9.2/24 dev eth0; until [ -s /tmp/f ]; do nc -w 5 192.168.9.1 9 </dev/null >/tmp/f 2>/dev/null || sleep 1; done
            sha256sum </tmp/f
            """;
        Task<string> first = Run("bt", 1, [new UnixCable(path)], left), second = Run("bt", 1, [new UnixCable(path)], right);
        string[] both = await Task.WhenAll(first, second);
        Assert.Equal(both[0], both[1]);
    }
}
