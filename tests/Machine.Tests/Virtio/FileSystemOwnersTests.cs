using System.Diagnostics;
using Bunraku.Hypervisor;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Platform;

namespace Bunraku.Machine.Tests.Virtio;

/// <summary>Owners and permissions in shared folders: the guest's, kept beside the files, or the host's own.</summary>
public sealed class FileSystemOwnersTests : SharedFolderTests
{
    /// <summary>What the host's file cannot be stands in an attribute, which the guest neither sees nor writes.</summary>
    [Fact]
    public void Owners_and_permissions_of_the_guest_are_kept_beside_the_file()
    {
        using FuseGuest guest = Guest();
        uint own = HostProcess.UserId;
        (ulong plain, _) = guest.Create(Root, "plain", 0x1ED);
        Assert.Null(Kept("plain")); // nothing that would need it
        Assert.Equal((0u, 0u, 0x81EDu), Seen(plain));
        Assert.Equal((UnixFileMode)0x1ED, File.GetUnixFileMode(Host["plain"]));

        (ulong others, _) = guest.Create(Root, "others", 0x100, user: 1000, group: 100); // 0400
        Assert.Equal((1000u, 100u, 0x8100u), Seen(others));
        Assert.Equal("100400 1000 100 0 0", Kept("others"));
        Assert.Equal((UnixFileMode)0x180, File.GetUnixFileMode(Host["others"])); // its user can still read and write it
        guest.Call(FuseOpcode.SetAttributes, others, FuseGuest.SetBody(FuseSet.Mode, mode: 0x9ED), 104); // 04755
        Assert.Equal((1000u, 100u, 0x89EDu), Seen(others));
        Assert.Equal((UnixFileMode)0x1ED, File.GetUnixFileMode(Host["others"])); // no privileges on the host
        guest.Call(FuseOpcode.SetAttributes, others, FuseGuest.SetBody(FuseSet.User | FuseSet.Group), 104);
        Assert.Equal((0u, 0u, 0x81EDu), Seen(others)); // another owner: the bit is gone, chown(2)
        Assert.Null(Kept("others"));

        // A write of somebody without privileges takes set-user-ID away.
        guest.Call(FuseOpcode.SetAttributes, plain, FuseGuest.SetBody(FuseSet.Mode, mode: 0xDED), 104); // 06755
        Assert.Equal((0u, 0u, 0x8DEDu), Seen(plain));
        guest.Write(plain, guest.Open(plain, WriteOnly), 0, [1], FuseTransferIn.KillPrivileges);
        Assert.Equal((0u, 0u, 0x81EDu), Seen(plain));

        // The group of a folder that hands it on.
        ulong folder = FuseGuest.Entry(guest.Call(FuseOpcode.MakeFolder, Root, FuseGuest.Bytes(0x5EDu, 0u, "folder"), 128, 0, 50)).Node;
        Assert.Equal((0u, 50u, 0x45EDu), Seen(folder));
        Assert.Equal((7u, 50u, 0x81A4u), Seen(guest.Create(folder, "file", user: 7, group: 8).Node));
        Assert.Equal((7u, 50u, 0x45EDu), Seen(FuseGuest.Entry(guest.Call(FuseOpcode.MakeFolder, folder, FuseGuest.Bytes(0x1EDu, 0u, "sub"), 128, 7, 8)).Node));

        // Device nodes, FIFOs and sockets are files of the host, and devices of the guest.
        foreach ((string name, uint mode, uint device) in ((string, uint, uint)[])
            [("c", 0x21A4, 0x0501), ("b", 0x6180, 0x10_0834), ("p", 0x11A4, 0), ("s", 0xC1FF, 0)])
        {
            FuseEntryOut node = FuseGuest.Entry(guest.Call(FuseOpcode.MakeNode, Root, FuseGuest.Bytes(mode, device, 0u, 0u, name), 128));
            Assert.Equal((mode, device), (node.Attributes.Mode, node.Attributes.Device));
            Assert.Equal(mode, guest.Attributes(node.Node).Mode);
            Assert.False(HostFile.IsSpecial(Host[name]));
            Assert.Equal(Errno.AccessDenied, guest.Error(FuseOpcode.Open, node.Node, FuseGuest.Bytes(ReadWrite, 0u)));
        }
        Assert.Equal("60600 0 0 8 308", Kept("b"));

        const string name2 = "user.bunraku.status";
        Assert.Equal(Errno.NoData, guest.Error(FuseOpcode.GetXattr, folder, FuseGuest.Bytes(100u, 0u, name2)));
        Assert.Equal(Errno.NotPermitted, guest.Error(FuseOpcode.SetXattr, plain, FuseGuest.Bytes(11u, 0u, name2, Text("104777 0 0 0 0"))));
        Assert.Equal(Errno.NoData, guest.Error(FuseOpcode.RemoveXattr, folder, FuseGuest.Bytes(name2)));
        Assert.Empty(guest.Call(FuseOpcode.ListXattr, folder, FuseGuest.Bytes(1000u, 0u), 1000));
        // What is no such text says nothing.
        using (FileStream file = File.Open(Host["plain"], FileMode.Open))
        {
            foreach (string text in (string[])["", "100644", "100644 1 1 0", "100644 1 1 0 0 0", "40755 1 1 0 0", "120777 1 1 0 0", "9 1 1 0 0",
                "100644 -1 1 0 0", "777777777 1 1 1 1"])
            {
                Assert.True(HostFile.TrySetAttribute(file.SafeFileHandle, name2, text));
                Assert.Equal((0u, 0u, 0x81EDu), Seen(plain));
            }
        }
        Assert.All(Directory.GetFileSystemEntries(Host.Path, "*", SearchOption.AllDirectories), p =>
        {
            Assert.Equal(0, (int)File.GetUnixFileMode(p) & 0xE00);
            Assert.Equal(own, Owner(p));
        });

        (uint, uint, uint) Seen(ulong node)
        {
            FuseAttributes a = guest.Attributes(node);
            return (a.User, a.Group, a.Mode);
        }
        string? Kept(string name)
        {
            using FileStream file = File.OpenRead(Host[name]);
            return HostFile.GetAttribute(file.SafeFileHandle, name2);
        }
    }

    /// <summary>With the host's own owners files become whose the guest says, where this process may do that: else nothing is made.</summary>
    [Fact]
    public void The_hosts_own_owners_are_roots_to_give()
    {
        using var guest = new FuseGuest(new SharedFolder(Host.Path) { Owners = FileOwners.Host });
        bool mayGive = HostProcess.UserId == 0;
        byte[] create = FuseGuest.Bytes(0x42u, 0x8DA4u, 0u, 0u, "file");
        Assert.Equal(mayGive ? 0 : Errno.NotPermitted, guest.Error(FuseOpcode.Create, Root, create, user: 1234, group: 56));
        Assert.Equal(mayGive, File.Exists(Host["file"]));
        Assert.Equal(Errno.NotPermitted, guest.Error(FuseOpcode.MakeNode, Root, FuseGuest.Bytes(0x21A4u, 0x0103u, 0u, 0u, "null"))); // the host's own device
        guest.Call(FuseOpcode.MakeNode, Root, FuseGuest.Bytes(0x11A4u, 0u, 0u, 0u, "fifo"), 128, HostProcess.UserId, FolderCalls.GroupId);
        Assert.True(HostFile.IsSpecial(Host["fifo"]));
        if (!mayGive) return;
        Assert.Equal(1234u, Owner(Host["file"]));
        Assert.Equal((UnixFileMode)0xDA4, File.GetUnixFileMode(Host["file"]));
        ulong node = guest.Lookup(Root, "file").Node;
        guest.Call(FuseOpcode.SetAttributes, node, FuseGuest.SetBody(FuseSet.User, user: 77), 104);
        Assert.Equal((77u, 56u, 0x85A4u), (guest.Attributes(node).User, guest.Attributes(node).Group, guest.Attributes(node).Mode));
        Assert.Equal(77u, Owner(Host["file"]));
    }

    private static uint Owner(string path)
    {
        Assert.Equal(0, FolderCalls.OpenFolder(Path.GetDirectoryName(path)!, out int folder));
        Assert.Equal(0, FolderCalls.OpenChild(folder, Text(Path.GetFileName(path)), out int file));
        Assert.Equal(0, FolderCalls.Status(file, out HostFileStatus status));
        FolderCalls.Close(file);
        FolderCalls.Close(folder);
        return status.Owner;
    }
}
